//! Registered memory, sessions, tokens, transports and the client.
