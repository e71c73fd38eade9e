"""Pure values: generations and their states, messages, journal segments, errors. May import no other package."""
