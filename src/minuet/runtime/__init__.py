"""The shell around the pure core: takes messages in, lets the core decide, has it done, and keeps what came of it."""
