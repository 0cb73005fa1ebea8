"""The version of this package: read by the build, and sent on the wire as ``sdkVersion``."""

__version__ = "0.1.0"
