//! Chaos: a fleet is broken on purpose while prompts run in it, and what came of them is checked.
//!
//! ```text
//! chaos (a program)                                   chaos-check (another)
//!   plan     seed ─► what breaks when                   evidence ─► check ─► verdict
//!   network  a namespace for each process of the fleet      ▲
//!   client   prompts, each with a key and a token ──────────┤ sent.jsonl
//!   faults   kills, stops, cuts, skews as planned           │
//!   watch    which VMs' processes live ─────────────────────┤ lives.jsonl
//!   effects  what every prompt's command wrote itself ──────┤ effects
//!   collect  rows, and what is left at the end ─────────────┘ end.json
//! ```
//!
//! The runner only writes down what it sees; whether that is right, the checker alone decides, from the
//! files. Nothing of the product is linked into either, so that neither can share one of its mistakes:
//! they know the program, its HTTP API, its tables, and the marks of its processes.
//!
//! What is promised:
//! - a prompt that was accepted is on record once and has one end, also in the event log;
//! - its command began once if the prompt is `completed`, and at most once however else it ended;
//! - two VMs that live at once never belong to one workspace;
//! - nothing is left: no process, no file, no promised capacity, no unfinished task.

pub mod check;
pub mod evidence;
pub mod plan;
