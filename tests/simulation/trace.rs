//! What happened, line by line, when it is asked for.

use std::cell::RefCell;

pub enum Trace {
    Off,
    /// Printed as it happens.
    Print,
    /// Kept.
    Keep(RefCell<String>),
}

impl Trace {
    pub fn line(&self, now: u64, text: std::fmt::Arguments<'_>) {
        match self {
            Self::Off => {}
            Self::Print => println!("{:>10.3} {text}", now as f64 / 1000.0),
            Self::Keep(lines) => {
                use std::fmt::Write;
                writeln!(lines.borrow_mut(), "{now} {text}").unwrap();
            }
        }
    }

    pub fn kept(&self) -> String {
        match self {
            Self::Keep(lines) => lines.borrow().clone(),
            _ => String::new(),
        }
    }
}

/// One line, formatted only if somebody wants it.
#[macro_export]
macro_rules! trace {
    ($world:expr, $($arg:tt)*) => {
        if !matches!($world.trace, $crate::trace::Trace::Off) {
            $world.trace.line($world.exec.now(), format_args!($($arg)*));
        }
    };
}
