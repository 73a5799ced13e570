//! The bounds of what callers say of logins. What they paste bounds itself.

use super::{Check, wrong};
use crate::problem::FieldError;
use aetherium_model::login::{StartLogin, SubmitCallback, SubmitCode, TIMEOUT_S};

impl Check for StartLogin {
    fn check(&self) -> Vec<FieldError> {
        match self.timeout_s {
            Some(s) if !TIMEOUT_S.contains(&s) => {
                let (least, most) = (TIMEOUT_S.start(), TIMEOUT_S.end());
                wrong("timeout_s", format!("{s} is not allowed: give {least} to {most} seconds"))
            }
            _ => Vec::new(),
        }
    }
}

impl Check for SubmitCode {}

impl Check for SubmitCallback {}
