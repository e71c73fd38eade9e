"""What an answer costs: counted at the wire of the local stack, and priced by a table that anybody can edit."""
