//! Judges what a run of `chaos` has left in a directory. Exits with 0 if every promise was kept, with 1 if
//! one was broken, with 2 if the evidence cannot be read.

use chaos::{check::check, evidence::Evidence};
use clap::Parser;
use std::{path::PathBuf, process::ExitCode};

/// Checks what came of a run of `chaos`.
#[derive(Debug, Parser)]
struct Args {
    /// Print the verdict as JSON.
    #[arg(long)]
    json: bool,
    /// The directory with the evidence.
    dir: PathBuf,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let evidence = match Evidence::read(&args.dir) {
        Ok(evidence) => evidence,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(2);
        }
    };
    let verdict = check(&evidence);
    if args.json {
        match serde_json::to_string_pretty(&verdict) {
            Ok(text) => println!("{text}"),
            Err(error) => {
                eprintln!("error: the verdict cannot be written: {error}");
                return ExitCode::from(2);
            }
        }
    } else {
        println!("{verdict}");
    }
    if verdict.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
