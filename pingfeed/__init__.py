"""The shared language of the feed: events, features, formats, ports. It imports no deployable."""
