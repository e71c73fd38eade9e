"""What an answer costs: operations counted on the local stack, and a price table that anybody can edit."""
