//! Several storage nodes with the same buckets: which of them is asked for what.

use super::{Client, Inner, Options, body::Outgoing, request::Request};
use crate::{Credentials, Endpoint, Error, Result};
use crc_fast::{CrcAlgorithm, Digest};
use http::header::RANGE;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::{Client as Http, connect::HttpConnector};
use std::{
    cmp::Reverse,
    iter,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

/// Ranges of an object that begin in the same block are asked of the same storage node, which may have it in its cache.
const BLOCK: u64 = 4 << 20;

/// The storage nodes beside the first one. Nodes are numbered; the first is 0.
pub(super) struct Others {
    nodes: Vec<Client>,
    /// The node that commands, and bytes by HTTP, go to.
    turn: AtomicUsize,
}

impl Others {
    pub fn new(
        first: &Endpoint,
        credentials: &Credentials,
        options: &Options,
        http: &Http<HttpsConnector<HttpConnector>, Outgoing>,
    ) -> Result<Self> {
        if let Some(other) = options.nodes.iter().find(|node| node.is_tls() != first.is_tls()) {
            return Err(Error::Invalid(format!(
                "of the storage nodes {first} and {other} only one is spoken to over TLS; use https:// or http:// for all of them"
            )));
        }
        // The socket of this host, if there is one, is the first node's.
        let alone = Options {
            nodes: Vec::new(),
            local_socket: None,
            local_sockets: None,
            ..options.clone()
        };
        let node = |endpoint: &Endpoint| Client {
            inner: Arc::new(Inner {
                endpoint: endpoint.clone(),
                others: Self::none(),
                credentials: credentials.clone(),
                options: alone.clone(),
                http: http.clone(),
                local: None,
            }),
            rdma: None,
        };
        Ok(Self {
            nodes: options.nodes.iter().map(node).collect(),
            ..Self::none()
        })
    }

    fn none() -> Self {
        Self {
            nodes: Vec::new(),
            turn: AtomicUsize::new(0),
        }
    }

    /// Who answered, as far as that is known.
    pub fn told(&self, first: &Endpoint) -> String {
        let others = self.nodes.iter().map(|node| node.inner.endpoint.to_string());
        iter::once(first.to_string())
            .chain(others)
            .collect::<Vec<_>>()
            .join(" or ")
    }
}

impl Client {
    /// All storage nodes, by number.
    pub(super) fn nodes(&self) -> impl Iterator<Item = &Self> {
        iter::once(self).chain(&self.inner.others.nodes)
    }

    pub(super) fn node(&self, number: usize) -> &Self {
        self.nodes().nth(number).unwrap_or(self)
    }

    /// The node that is asked for what any of them can do.
    pub(super) fn node_of_turn(&self) -> &Self {
        self.node(self.inner.others.turn.load(Ordering::Relaxed))
    }

    /// `node` cannot be reached: the next one is asked from now on.
    pub(super) fn pass_turn_of(&self, node: &Self) {
        let now = self
            .nodes()
            .position(|other| Arc::ptr_eq(&other.inner, &node.inner));
        if let Some(now) = now.filter(|_| !self.inner.others.nodes.is_empty()) {
            let next = (now + 1) % (self.inner.others.nodes.len() + 1);
            // Unless somebody else did already.
            let _passed =
                self.inner
                    .others
                    .turn
                    .compare_exchange(now, next, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// The numbers of the nodes in the order in which they are asked for a request's bytes: by rendezvous hashing, so that all
    /// clients ask the same node for the same block, blocks spread over all nodes, and those of a node that goes over the
    /// others.
    pub(super) fn ranked(&self, request: &Request) -> Vec<usize> {
        let mut nodes: Vec<_> = self.nodes().enumerate().collect();
        if nodes.len() > 1 {
            let block = block_of(request).to_le_bytes();
            nodes.sort_by_cached_key(|(_, node)| {
                let mut digest = Digest::new(CrcAlgorithm::Crc64Nvme);
                digest.update(node.inner.endpoint.to_string().as_bytes());
                digest.update(&[0]);
                digest.update(request.path_and_query.as_bytes());
                digest.update(&block);
                Reverse(mixed(digest.finalize()))
            });
        }
        nodes.into_iter().map(|(number, _)| number).collect()
    }
}

/// The block of the object in which the range begins.
fn block_of(request: &Request) -> u64 {
    let range = request.headers.get(RANGE).and_then(|range| range.to_str().ok());
    let first = range.and_then(|range| {
        range
            .strip_prefix("bytes=")?
            .split('-')
            .next()?
            .parse::<u64>()
            .ok()
    });
    first.unwrap_or(0) / BLOCK
}

/// The finalizer of `MurmurHash3`. CRCs of equally long endpoints before the same block differ in the same bits always; these do not.
fn mixed(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    bits = (bits ^ (bits >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    bits ^ (bits >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Range;
    use http::Method;

    fn client(nodes: &[&str]) -> Client {
        let mut endpoints = nodes.iter().map(|node| node.parse::<Endpoint>().unwrap());
        let first = endpoints.next().unwrap();
        let options = Options {
            nodes: endpoints.collect(),
            ..Options::default()
        };
        Client::new(first, Credentials::new("key", "secret"), options).unwrap()
    }

    fn blocks(client: &Client) -> Vec<Vec<usize>> {
        let block = |number: u64| {
            let range = Range::From {
                first: number * BLOCK,
                last: Some(number * BLOCK + 99),
            };
            let request = Request::new(Method::GET, "bucket", Some("key"))
                .range(Some(range))
                .unwrap();
            client.ranked(&request)
        };
        (0..3000).map(block).collect()
    }

    #[tokio::test]
    async fn blocks_spread_evenly_and_stay_where_they_are_when_a_node_goes() {
        let all = [
            "http://10.0.0.1:9000",
            "http://10.0.0.2:9000",
            "http://10.0.0.3:9000",
        ];
        let of_three = blocks(&client(&all));
        for node in 0..3 {
            let share = of_three.iter().filter(|ranked| ranked[0] == node).count();
            assert!(
                (850..1150).contains(&share),
                "node {node} has {share} of 3000 blocks"
            );
        }
        // The blocks of a node that is asked no more: half to each of the two.
        let second = of_three
            .iter()
            .filter(|ranked| ranked[0] == 2 && ranked[1] == 0)
            .count();
        assert!((400..600).contains(&second), "{second} of some 1000");
        for (before, after) in of_three.iter().zip(blocks(&client(&all[..2]))) {
            let left: Vec<_> = before.iter().copied().filter(|node| *node != 2).collect();
            assert_eq!(left, after);
        }
    }

    #[tokio::test]
    async fn tls_is_for_all_nodes_or_for_none() {
        let options = Options {
            nodes: vec!["https://10.0.0.2:9000".parse().unwrap()],
            ..Options::default()
        };
        let first = "http://10.0.0.1:9000".parse().unwrap();
        let error = Client::new(first, Credentials::new("key", "secret"), options).unwrap_err();
        assert!(error.to_string().contains("https://10.0.0.2:9000"), "{error}");
    }
}
