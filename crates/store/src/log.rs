//! The pure part of a run's log: how entries are numbered, and what no longer fits.

use aetherium_model::{
    Timestamp,
    limits::MAX_OUTPUT_BYTES,
    output::{EventBody, OutputEvent},
};

/// What a log needs to know of itself to grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct LogHead {
    /// The number of the last entry; 0 for an empty log.
    pub(crate) last_seq: i64,
    /// The bytes of output kept.
    pub(crate) output_bytes: u64,
    /// Whether output is being dropped.
    pub(crate) truncated: bool,
}

impl LogHead {
    /// Numbers what fits. The first output that does not fit is replaced by one
    /// [`EventBody::Truncated`], and all output after it is dropped, so that what is kept is the
    /// beginning of the output without holes. What is not output always fits.
    pub(crate) fn admit(
        &mut self,
        events: impl IntoIterator<Item = (Timestamp, EventBody)>,
    ) -> Vec<OutputEvent> {
        events.into_iter().filter_map(|(at, body)| self.admit_one(at, body)).collect()
    }

    fn admit_one(&mut self, at: Timestamp, body: EventBody) -> Option<OutputEvent> {
        let body = match output_bytes(&body) {
            Some(_) if self.truncated => return None,
            Some(bytes) if self.output_bytes + bytes > MAX_OUTPUT_BYTES => {
                self.truncated = true;
                EventBody::Truncated { kept_bytes: self.output_bytes }
            }
            Some(bytes) => {
                self.output_bytes += bytes;
                body
            }
            None => body,
        };
        self.last_seq += 1;
        Some(OutputEvent { seq: self.last_seq, at, body })
    }
}

fn output_bytes(body: &EventBody) -> Option<u64> {
    match body {
        EventBody::Output { text, .. } => Some(text.len() as u64),
        EventBody::OutputBytes { hex, .. } => Some(hex.len() as u64 / 2),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aetherium_model::output::Stream;
    use proptest::prelude::*;

    fn body() -> impl Strategy<Value = EventBody> {
        let big = MAX_OUTPUT_BYTES as usize / 3;
        prop_oneof![
            (0..3usize, 0..big).prop_map(|(kind, bytes)| match kind {
                0 => EventBody::Output { stream: Stream::Stdout, text: "x".repeat(bytes) },
                1 => EventBody::OutputBytes { stream: Stream::Stderr, hex: "ff".repeat(bytes / 2) },
                _ => EventBody::Output { stream: Stream::Stderr, text: "x".into() },
            }),
            Just(EventBody::Status { stage: "s".into(), message: String::new() }),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_log_has_no_gaps_stays_in_bounds_and_keeps_the_beginning_of_the_output(
            batches in proptest::collection::vec(proptest::collection::vec(body(), 0..6), 0..6)
        ) {
            let mut head = LogHead::default();
            let mut log = Vec::new();
            let given: Vec<EventBody> = batches.concat();
            for batch in batches {
                log.extend(head.admit(batch.into_iter().map(|body| (Timestamp::from_millis(0), body))));
            }
            prop_assert!(log.iter().map(|event| event.seq).eq(1..=log.len() as i64));
            prop_assert_eq!(head.last_seq, log.len() as i64);

            let output = |bodies: &[EventBody]| -> Vec<EventBody> {
                bodies.iter().filter(|body| output_bytes(body).is_some()).cloned().collect()
            };
            let bodies: Vec<EventBody> = log.into_iter().map(|event| event.body).collect();
            let (kept, all) = (output(&bodies), output(&given));
            prop_assert!(all.starts_with(&kept));
            let kept_bytes: u64 = kept.iter().filter_map(output_bytes).sum();
            prop_assert!(kept_bytes <= MAX_OUTPUT_BYTES);
            let marks: Vec<&EventBody> =
                bodies.iter().filter(|body| matches!(body, EventBody::Truncated { .. })).collect();
            if kept.len() == all.len() {
                prop_assert!(marks.is_empty());
            } else {
                let mark = EventBody::Truncated { kept_bytes };
                prop_assert_eq!(marks, vec![&mark]);
            }
            let others = given.len() - all.len();
            prop_assert_eq!(bodies.len(), kept.len() + others + usize::from(head.truncated));
        }
    }
}
