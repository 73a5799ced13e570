//! One file per verb.

mod assistant;
mod bench;
mod build;
mod config;
mod disk;
mod doctor;
mod environment;
mod events;
mod exec;
mod host;
mod kernel;
mod login;
mod migrate;
mod plan;
mod prepare;
mod quickstart;
mod remote_build;
mod roles;
mod secret;
mod status;
mod task;
mod template;
mod tool;
mod top;
mod up;
mod vm;
mod worker;
mod ws;

pub(crate) use secret::load_keys;

use crate::{
    args::{Args, Command, ListArgs},
    error::CliError,
    print,
    stdio::Stdout,
};
use clap::CommandFactory as _;
use std::process::ExitCode;

/// Runs the verb.
pub(crate) async fn dispatch(args: Args) -> Result<ExitCode, CliError> {
    match &args.command {
        Command::Up(up) => up::up(&args, up).await?,
        Command::Run(run) => return exec::run(&args, run).await,
        Command::Exec(exec) => return exec::exec(&args, exec).await,
        Command::Ws { verb } => return ws::dispatch(&args, verb).await,
        Command::Env { verb } => environment::dispatch(&args, verb).await?,
        Command::Vm { verb } => vm::dispatch(&args, verb).await?,
        Command::Events(list) => events::events(&args, list).await?,
        Command::Webhook { verb } => events::webhook(&args, verb).await?,
        Command::Secret { verb } => secret::dispatch(&args, verb).await?,
        Command::Project { verb } => events::project(&args, verb).await?,
        Command::Task { verb } => task::dispatch(&args, verb).await?,
        Command::Template { verb } => template::dispatch(&args, verb).await?,
        Command::Tool { verb } => tool::dispatch(&args, verb).await?,
        Command::Assistant { verb } => assistant::dispatch(&args, verb).await?,
        Command::Kernel { verb } => return kernel::dispatch(&args, verb).await,
        Command::Host { verb } => return host::dispatch(&args, verb).await,
        Command::Gateway(role) => roles::gateway(&args, role).await?,
        Command::Worker { verb: Some(verb), .. } => worker::dispatch(&args, verb).await?,
        Command::Worker { verb: None, role } => roles::worker(&args, role).await?,
        Command::Status => return status::status(&args).await,
        Command::Top(arguments) => top::top(&args, arguments).await?,
        Command::Doctor(driver) => return doctor::doctor(&args, driver).await,
        Command::Quickstart(quickstart) => return quickstart::quickstart(&args, quickstart).await,
        Command::Bench { verb } => return bench::dispatch(&args, verb).await,
        Command::Migrate(wanted) => migrate::migrate(&args, wanted).await?,
        Command::Config { verb } => config::dispatch(verb)?,
        Command::Openapi => print::json(&aetherium_gateway::openapi())?,
        Command::Completion { shell } => {
            clap_complete::generate(*shell, &mut Args::command(), "aetherium", &mut Stdout);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The query of a list.
fn page(list: &ListArgs) -> String {
    match &list.cursor {
        Some(cursor) => format!("limit={}&cursor={cursor}", list.limit),
        None => format!("limit={}", list.limit),
    }
}

/// Says how to see the rest of a list.
fn more(next_cursor: Option<&String>) {
    if let Some(cursor) = next_cursor {
        println!("(more: --cursor {cursor})");
    }
}

/// An exit code from a command's, which may be beyond a byte only if the guest lies.
fn exit_code(code: i32) -> ExitCode {
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}
