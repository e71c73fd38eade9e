"""Pure values: what a generation is, how it ends, what a message holds, what can go wrong. Uses no other room."""
