//! Two principals side by side, which a storage node of one root key has not: what one does, the other does not feel.

use super::*;
use penstock_rdma::fabric::{
    Device,
    loopback::{LoopbackDevice, Network},
};

struct Table {
    device: Arc<LoopbackDevice>,
    sessions: Arc<Sessions>,
}

impl Table {
    fn new(limits: &Limits) -> Self {
        let device = Network::new().device("server");
        let rails = Rails::of([device.clone() as Arc<dyn Device>]);
        Self {
            device,
            sessions: Sessions::begin(limits, rails),
        }
    }

    fn connect(&self, owner: &str) -> Result<SessionId, Refusal> {
        let place = self.sessions.reserve(owner)?;
        let queue_pair = self.device.queue_pair(1).unwrap();
        let grant = Grant {
            mtu: 1024,
            read_depth: 1,
            immediate: false,
            max: u32::MAX,
            idle: Duration::from_secs(300),
            operation: Duration::from_secs(30),
        };
        let peer = (queue_pair.address(), Psn::random());
        let chosen = self.sessions.rail_for(&peer.0)?;
        self.sessions.add(place, owner, chosen, queue_pair, grant, peer)
    }
}

#[tokio::test]
async fn a_session_of_another_principal_is_as_one_that_is_not_there() {
    let table = Table::new(&Limits::default());
    let id = table.connect("alice").unwrap();
    let refused = table.sessions.admit(id, "bob", 7).err();
    assert!(matches!(refused, Some(Refusal::NoSuchSession)), "{refused:?}");
    // Word for word what is said of none at all: nobody learns which sessions there are.
    let nowhere = table.sessions.admit(SessionId::random(), "bob", 7).err();
    assert_eq!(refused.unwrap().to_string(), nowhere.unwrap().to_string());
    table.sessions.end_of(id, "bob").await;
    assert_eq!(table.sessions.count(), 1);
    // Bob has used no number of alice's.
    let lease = table.sessions.admit(id, "alice", 7).unwrap();
    assert!(lease.session.queue_pair.is_alive());
    drop(lease);
    table.sessions.end_of(id, "alice").await;
    assert_eq!(table.sessions.count(), 0);
}

#[tokio::test]
async fn limits_of_one_principal_are_not_those_of_another() {
    let limits = Limits {
        sessions_per_key: 2,
        sessions: 3,
        ..Limits::default()
    };
    let table = Table::new(&limits);
    let first = table.connect("alice").unwrap();
    table.connect("alice").unwrap();
    let refused = table.connect("alice").err();
    assert!(
        matches!(refused, Some(Refusal::Busy(Limit::SessionsPerKey))),
        "{refused:?}"
    );
    let id = table.connect("bob").unwrap();
    let refused = table.connect("bob").err();
    assert!(
        matches!(refused, Some(Refusal::Busy(Limit::Sessions))),
        "{refused:?}"
    );
    // A refusal for want of room in all has taken no place of bob's.
    table.sessions.end_of(first, "alice").await;
    table.connect("bob").unwrap();
    table.sessions.end_of(id, "bob").await;
    assert_eq!(table.sessions.count(), 2);
}

#[tokio::test]
async fn a_place_is_free_when_the_queue_pair_is_gone_and_not_before() {
    let limits = Limits {
        sessions_per_key: 1,
        ..Limits::default()
    };
    let table = Table::new(&limits);
    let id = table.connect("alice").unwrap();
    let lease = table.sessions.admit(id, "alice", 1).unwrap();
    table.sessions.end_of(id, "alice").await;
    assert_eq!((table.sessions.count(), table.device.usage().queue_pairs), (0, 1));
    assert!(
        table.connect("alice").is_err(),
        "a request still holds the queue pair"
    );
    drop(lease);
    table.connect("alice").unwrap();
}

#[tokio::test]
async fn sessions_that_are_made_at_the_same_time_go_over_different_rails() {
    let network = Network::new();
    let devices = ["server-0", "server-1"].map(|name| network.device(name) as Arc<dyn Device>);
    let sessions = Sessions::begin(&Limits::default(), Rails::of(devices));
    let peer = network.device("client").queue_pair(1).unwrap().address();
    let choose = || sessions.rail_for(&peer).unwrap();
    let (one, other) = (choose(), choose());
    assert_ne!(one.rail.number(), other.rail.number());
    // One that comes to nothing is counted no more.
    let first = one.rail.number();
    drop(one);
    assert_eq!(choose().rail.number(), first);
}
