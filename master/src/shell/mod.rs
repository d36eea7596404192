//! The gRPC services: they translate, hand over to the owner, and pass its answers on.
