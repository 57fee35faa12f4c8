"""The demo page: one HTML file, and the data that it shows beyond the API. Mounted only with PINGFEED_DEMO_PAGE=1."""
