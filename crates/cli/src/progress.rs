//! Bars on standard error for whatever takes over a second. Where standard error is no terminal,
//! each step is one line instead.

use aetherium_image::Progress;
use aetherium_model::finding::Finding;
use indicatif::{ProgressBar, ProgressStyle};
use std::{
    io::IsTerminal as _,
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// A spinner or a bar, one at a time.
pub(crate) struct Bars {
    current: Mutex<Option<ProgressBar>>,
    terminal: bool,
}

impl Bars {
    pub(crate) fn new() -> Self {
        Self { current: Mutex::new(None), terminal: std::io::stderr().is_terminal() }
    }

    /// Shows that something of unknown length is under way.
    pub(crate) fn spin(&self, label: &str) {
        if !self.terminal {
            eprintln!("… {label}");
            return;
        }
        let mut current = self.lock();
        if let Some(bar) = current.as_ref().filter(|bar| bar.length().is_none()) {
            bar.set_message(label.to_owned());
            return;
        }
        let bar = ProgressBar::new_spinner().with_message(label.to_owned());
        if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed:>4} {wide_msg}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(120));
        replace(&mut current, Some(bar));
    }

    /// The same for something that repeats itself, which is not worth a line each time.
    pub(crate) fn tick(&self, label: &str) {
        if self.terminal {
            self.spin(label);
        }
    }

    /// Whether anybody sees bars.
    pub(crate) const fn on_terminal(&self) -> bool {
        self.terminal
    }

    /// Takes the bar away.
    pub(crate) fn clear(&self) {
        replace(&mut self.lock(), None);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<ProgressBar>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn replace(current: &mut Option<ProgressBar>, next: Option<ProgressBar>) {
    if let Some(bar) = std::mem::replace(current, next) {
        bar.finish_and_clear();
    }
}

impl Progress for Bars {
    fn step(&self, label: &str) {
        self.spin(label);
    }

    fn total(&self, label: &str, bytes: Option<u64>) {
        let (true, Some(bytes)) = (self.terminal, bytes) else { return self.spin(label) };
        let bar = ProgressBar::new(bytes).with_message(label.to_owned());
        let template = "{bar:30} {decimal_bytes:>9} / {decimal_total_bytes} {wide_msg}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        replace(&mut self.lock(), Some(bar));
    }

    fn advance(&self, bytes: u64) {
        if let Some(bar) = self.lock().as_ref() {
            bar.inc(bytes);
        }
    }

    fn done(&self) {
        self.clear();
    }

    fn warn(&self, finding: &Finding) {
        self.clear();
        eprintln!("warning: {} ({})", finding.found, finding.why);
        eprintln!("what to do: {}", finding.remedy);
    }
}
