//! Ports between the wire and this crate's types.

use super::wire;
use super::wire::__buffa::oneof::listening_event::Event;
use crate::ports::{ListeningPort, PortEvent};

impl From<ListeningPort> for wire::ListeningPort {
    fn from(port: ListeningPort) -> Self {
        Self {
            address: port.address.to_string(),
            port: port.port.into(),
            uid: port.uid,
            ..Self::default()
        }
    }
}

impl From<PortEvent> for wire::ListeningEvent {
    fn from(event: PortEvent) -> Self {
        let event = match event {
            PortEvent::Opened(port) => Event::Opened(Box::new(port.into())),
            PortEvent::Closed(port) => Event::Closed(Box::new(port.into())),
            PortEvent::CaughtUp => Event::CaughtUp(Box::default()),
        };
        Self { event: Some(event), ..Self::default() }
    }
}

impl wire::ListeningPort {
    /// The port; `None` if address or number are none.
    #[must_use]
    pub fn read(&self) -> Option<ListeningPort> {
        Some(ListeningPort {
            address: self.address.parse().ok()?,
            port: self.port.try_into().ok()?,
            uid: self.uid,
        })
    }
}

impl wire::ListeningEvent {
    /// The event; `None` for one that this build cannot read.
    #[must_use]
    pub fn read(&self) -> Option<PortEvent> {
        match self.event.as_ref()? {
            Event::Opened(port) => Some(PortEvent::Opened(port.read()?)),
            Event::Closed(port) => Some(PortEvent::Closed(port.read()?)),
            Event::CaughtUp(_) => Some(PortEvent::CaughtUp),
        }
    }
}
