"""What runs on a schedule: ticks and the nightly job."""
