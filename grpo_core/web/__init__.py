"""What servers on this machine share: an address to listen at, and the names that are this machine's."""
