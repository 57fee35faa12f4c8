"""The images and the composition, brought up for real on a Docker engine (make test-containers)."""
