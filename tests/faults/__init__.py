"""What a user's machine does to the services: kill, full disk, dead and slow sinks, clocks that jump."""
