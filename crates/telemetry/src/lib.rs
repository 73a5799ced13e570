//! How a role shows what it does: metrics, logs and traces.
//!
//! ```text
//! parts of a role ──implement──► Observed ──► Operations ──► GET /metrics /health /ready
//! tracing's spans and events ──► start() ──► text or JSON on standard error
//!                                   └──────► OTLP, where an endpoint is named
//! ```
//! - Each room registers metrics of its own under names of its own; [`Operations`] only puts them
//!   together. What is counted elsewhere (the database, the kernel) is read when somebody asks, never by
//!   a timer: a role that nobody watches does nothing for it.
//! - [`within`] makes work a part of a trace, [`here`] tells where in one it is, for whatever carries that
//!   on: a request to another process, a task, a command's environment.
//!
//! No label carries an id, a name that users choose, or anything else without a bound. Nothing here may
//! hold up the work it watches.

mod json;
mod observed;
mod operations;
mod otlp;
mod process;
mod start;
mod trace;

pub use observed::{Observed, seconds};
pub use operations::Operations;
pub use process::Process;
pub use start::{LogFormat, Settings, Telemetry, TelemetryError, start};
pub use trace::{TRACEPARENT, here, parent_of, within};
