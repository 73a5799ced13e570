//! Hears what others say of the topics that somebody here listens to.
//!
//! A channel is subscribed to while its topic has a subscriber in this process. Whoever began to listen
//! before Redis confirmed it is told to look once it has, so that nothing falls between.

use super::{Ended, answered, publish::PING_EVERY};
use crate::bus::{Local, Topic};
use futures::StreamExt as _;
use redis::{
    Msg,
    aio::{PubSub, PubSubSink, PubSubStream},
};
use std::{collections::HashMap, convert::Infallible};
use tokio::time::{MissedTickBehavior, interval};

/// How many channels one command names.
const AT_ONCE: usize = 256;

/// A topic's channel. A worker's calls go by its stream.
pub(super) fn channel(topic: Topic) -> Option<String> {
    match topic {
        Topic::Worker(_) => None,
        Topic::Workspace(id) => Some(format!("aetherium:workspace:{id}")),
        Topic::Vm(id) => Some(format!("aetherium:vm:{id}")),
        Topic::Run(run) => Some(format!("aetherium:run:{run}")),
        Topic::Task(id) => Some(format!("aetherium:task:{id}")),
        Topic::Anything => Some("aetherium:anything".to_owned()),
    }
}

pub(super) struct Subscriber<'a> {
    sink: PubSubSink,
    heard: PubSubStream,
    local: &'a Local,
    myself: &'a str,
    topics: HashMap<String, Topic>,
}

impl<'a> Subscriber<'a> {
    /// Subscribes to everything that has a subscriber now.
    pub(super) async fn begin(
        connection: PubSub,
        local: &'a Local,
        myself: &'a str,
    ) -> Result<Self, Ended> {
        let (sink, heard) = connection.split();
        let mut begun = Self { sink, heard, local, myself, topics: HashMap::new() };
        begun.listen(&local.follow()).await?;
        Ok(begun)
    }

    pub(super) async fn serve(mut self) -> Result<Infallible, Ended> {
        let mut ping = interval(PING_EVERY);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                heard = self.heard.next() => self.hear(&heard.ok_or(Ended::Closed)?),
                () = self.local.other_topics() => self.turn().await?,
                _ = ping.tick() => answered(self.sink.ping::<()>()).await?,
            }
        }
    }

    fn hear(&self, said: &Msg) {
        // This process was told before Redis was.
        if said.get_payload_bytes() == self.myself.as_bytes() {
            return;
        }
        if let Some(topic) = self.topics.get(said.get_channel_name()) {
            self.local.announce(*topic);
        }
    }

    /// Follows the topics that came and went.
    async fn turn(&mut self) -> Result<(), Ended> {
        let (mut came, mut went) = (Vec::new(), Vec::new());
        for (topic, wanted) in self.local.turned() {
            if wanted { came.push(topic) } else { went.push(topic) }
        }
        self.forget(&went).await?;
        self.listen(&came).await
    }

    async fn listen(&mut self, topics: &[Topic]) -> Result<(), Ended> {
        let named = topics.iter().filter_map(|topic| Some((channel(*topic)?, *topic)));
        let new: Vec<_> = named.filter(|(name, _)| !self.topics.contains_key(name)).collect();
        for some in new.chunks(AT_ONCE) {
            let names: Vec<&str> = some.iter().map(|(name, _)| name.as_str()).collect();
            answered(self.sink.subscribe(&names)).await?;
            for (name, topic) in some {
                self.topics.insert(name.clone(), *topic);
                self.local.announce(*topic);
            }
        }
        Ok(())
    }

    async fn forget(&mut self, topics: &[Topic]) -> Result<(), Ended> {
        let named = topics.iter().filter_map(|topic| channel(*topic));
        let old: Vec<String> = named.filter(|name| self.topics.remove(name).is_some()).collect();
        for some in old.chunks(AT_ONCE) {
            answered(self.sink.unsubscribe(some)).await?;
        }
        Ok(())
    }
}
