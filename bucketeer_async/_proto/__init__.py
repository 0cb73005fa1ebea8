"""The messages of the gateway's API: our .proto files, and the modules that `nox -s protos` generates from them."""
