//! The network layer over real sockets on loopback addresses, all in one process. Each test binds
//! addresses of its own and waits for conditions with deadlines, never for time to pass.

mod common;
mod kad;
mod pool;
mod records;
mod server;
