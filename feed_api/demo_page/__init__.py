"""The demo page: one HTML file, and what it shows beyond the API. Mounted by PINGFEED_DEMO_PAGE=1, else not there."""
