"""One file a port and backend: `<port>_<backend>.py`. Only a `wiring.py` imports from here."""
