"""What the adapters for DynamoDB share: the shape of items, one client and one loader a process, pacing."""
