//! Standard output and error, whose reader may go before the writer is done, as `head` does.
//!
//! Each `println!` of this program is the one below, so that a reader that has gone makes nobody panic. A
//! verb that only asks and shows ends at once, with the exit code of what SIGPIPE has ended. A verb that
//! has a server, a VM or a file in the making goes on to its end, unheard; one that may last ends in order
//! when it is told so by [`reader_gone`]. SIGPIPE itself stays ignored, since sockets raise it as well.

use std::{
    fmt,
    io::{self, Write as _},
    process::ExitCode,
    sync::{
        LazyLock,
        atomic::{AtomicBool, AtomicU8, Ordering::SeqCst},
    },
};
use tokio_util::sync::CancellationToken;

/// 128 + SIGPIPE, as a shell has it.
pub(crate) const EXIT_NO_READER: u8 = 141;

static ENDS_AT_ONCE: AtomicBool = AtomicBool::new(false);
static GONE: LazyLock<CancellationToken> = LazyLock::new(CancellationToken::new);
/// How the program is to end where its output was lost and nothing else went wrong.
static LOST: AtomicU8 = AtomicU8::new(0);

/// As in the standard library.
macro_rules! print {
    ($($text:tt)*) => { $crate::stdio::print(::std::format_args!($($text)*)) };
}

/// As in the standard library.
macro_rules! println {
    () => { $crate::stdio::print(::std::format_args!("\n")) };
    ($($text:tt)*) => {
        $crate::stdio::print(::std::format_args!("{}\n", ::std::format_args!($($text)*)))
    };
}

/// As in the standard library.
macro_rules! eprint {
    ($($text:tt)*) => { $crate::stdio::eprint(::std::format_args!($($text)*)) };
}

/// As in the standard library.
macro_rules! eprintln {
    () => { $crate::stdio::eprint(::std::format_args!("\n")) };
    ($($text:tt)*) => {
        $crate::stdio::eprint(::std::format_args!("{}\n", ::std::format_args!($($text)*)))
    };
}

/// From now on the program ends where its output has no reader any more.
pub(crate) fn end_at_once_when_unread() {
    ENDS_AT_ONCE.store(true, SeqCst);
}

/// Waits until nobody reads the output any more.
pub(crate) async fn reader_gone() {
    GONE.cancelled().await;
}

/// Whether nobody reads the output any more.
pub(crate) fn is_unread() -> bool {
    GONE.is_cancelled()
}

/// How the program ends whose verb ended so.
pub(crate) fn exit_code(ended: ExitCode) -> ExitCode {
    match LOST.load(SeqCst) {
        0 => ended,
        lost if ended == ExitCode::SUCCESS => lost.into(),
        _ => ended,
    }
}

/// Writes to standard output.
pub(crate) fn print(text: fmt::Arguments<'_>) {
    put(|out| out.write_fmt(text));
}

/// Writes to standard error. Where nobody reads that there is nobody to be told.
pub(crate) fn eprint(text: fmt::Arguments<'_>) {
    let _ = io::stderr().lock().write_fmt(text);
}

/// Standard output, for whoever brings the bytes.
pub(crate) struct Stdout;

impl io::Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        put(|out| out.write_all(bytes));
        unless_unread(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        put(io::Write::flush);
        unless_unread(())
    }
}

fn unless_unread<T>(done: T) -> io::Result<T> {
    if is_unread() { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(done) }
}

fn put(what: impl FnOnce(&mut io::StdoutLock<'static>) -> io::Result<()>) {
    if is_unread() {
        return;
    }
    let Err(error) = what(&mut io::stdout().lock()) else { return };
    let code = match error.kind() {
        io::ErrorKind::BrokenPipe => EXIT_NO_READER,
        _ => {
            eprintln!("error: cannot write to standard output: {error}");
            1
        }
    };
    if ENDS_AT_ONCE.load(SeqCst) {
        std::process::exit(code.into());
    }
    LOST.store(code, SeqCst);
    GONE.cancel();
}
