"""Operations: reconciling counts, rejected events, deleting users, expiring old files."""
