"""Records of phases, and tables of records."""
