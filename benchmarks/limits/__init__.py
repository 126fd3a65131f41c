"""The limits: what the machine, the databases and the clients allow to whoever uses them without a framework."""
