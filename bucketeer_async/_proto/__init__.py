"""The messages of the wire: our own .proto files, and the modules generated from them by `nox -s protos`."""
