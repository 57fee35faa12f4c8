"""What an installation on AWS (or on an emulator of it) needs before it can start."""
