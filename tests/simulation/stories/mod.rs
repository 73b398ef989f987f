//! What the proxy does, capability by capability.

mod calls;
mod relay;
