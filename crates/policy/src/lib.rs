//! What policy says: Cedar schema, entities, evaluation, explanation. Never does I/O.
