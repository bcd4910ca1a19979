//! From what was found to what is told.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use penstock_crds::{
    conditions::{
        CREDENTIALS_READY, DEGRADED, GATEWAY_READY, NODES_READY, PROGRESSING, RDMA_READY, READY,
        REASON_DISABLED, REASON_READY, REASON_SETTLED, STORAGE_CLASS_READY, TLS_READY,
    },
    storage_cluster::{GatewayStatus, NodeCounts, StorageClusterStatus},
};

/// How one step turned out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    state: State,
    reason: &'static str,
    message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Done,
    Waiting,
    Failed,
}

impl Step {
    /// It is as wanted.
    pub fn done(message: impl Into<String>) -> Self {
        Self {
            state: State::Done,
            reason: REASON_READY,
            message: message.into(),
        }
    }

    /// The spec does not want it.
    pub fn disabled(message: impl Into<String>) -> Self {
        Self {
            state: State::Done,
            reason: REASON_DISABLED,
            message: message.into(),
        }
    }

    /// It will be, without anybody's help.
    pub fn waiting(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            state: State::Waiting,
            reason,
            message: message.into(),
        }
    }

    /// It will not be, until somebody does what the message says.
    pub fn failed(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            state: State::Failed,
            reason,
            message: message.into(),
        }
    }

    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    pub fn has_failed(&self) -> bool {
        self.state == State::Failed
    }

    /// What is told of it, for people.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// As a condition.
    pub fn told(&self, kind: &'static str) -> Told {
        let status = if self.is_done() { "True" } else { "False" };
        (kind, status, self.reason, self.message.clone())
    }
}

/// A condition's type, status, reason and message.
pub type Told = (&'static str, &'static str, &'static str, String);

/// Ready, Progressing and Degraded, from the steps that have to be done: what fails is told before what waits.
pub fn summary(steps: &[&Step], when_ready: &str) -> Vec<Told> {
    let first = |state| steps.iter().find(|step| step.state == state);
    let (failed, waiting) = (first(State::Failed), first(State::Waiting));
    let told = |kind, status, step: &Step| (kind, status, step.reason, step.message.clone());
    let settled = |kind, message: &str| (kind, "False", REASON_SETTLED, message.to_owned());
    vec![
        match failed.or(waiting) {
            None => (READY, "True", REASON_READY, when_ready.to_owned()),
            Some(step) => told(READY, "False", step),
        },
        match waiting {
            Some(step) => told(PROGRESSING, "True", step),
            None => settled(PROGRESSING, "nothing is being changed"),
        },
        match failed {
            Some(step) => told(DEGRADED, "True", step),
            None => settled(DEGRADED, "nothing needs attention"),
        },
    ]
}

/// Conditions to be shown after `old`: those whose status did not change keep their time.
pub fn conditions(
    told: Vec<Told>,
    generation: Option<i64>,
    old: &[Condition],
    now: Timestamp,
) -> Vec<Condition> {
    let condition = |(kind, status, reason, message): Told| {
        let before = old.iter().find(|condition| condition.type_ == kind);
        let since = before
            .filter(|condition| condition.status == status)
            .map(|condition| condition.last_transition_time.clone());
        Condition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message,
            observed_generation: generation,
            last_transition_time: since.unwrap_or(Time(now)),
        }
    };
    told.into_iter().map(condition).collect()
}

/// What a reconciliation found.
pub struct Findings {
    pub generation: Option<i64>,
    pub credentials: Step,
    pub tls: Step,
    pub storage_class: Step,
    pub nodes: Step,
    pub rdma: Step,
    pub gateway: Step,
    pub gateway_endpoint: Option<String>,
    /// Whether the cluster is not ready without RDMA.
    pub rdma_required: bool,
    pub counts: NodeCounts,
    pub endpoint: String,
    pub credentials_secret: String,
    pub storage_class_name: Option<String>,
    pub image: String,
}

impl Findings {
    fn all_steps(&self) -> [(&'static str, &Step); 6] {
        [
            (CREDENTIALS_READY, &self.credentials),
            (TLS_READY, &self.tls),
            (STORAGE_CLASS_READY, &self.storage_class),
            (NODES_READY, &self.nodes),
            (RDMA_READY, &self.rdma),
            (GATEWAY_READY, &self.gateway),
        ]
    }

    /// Those that must be done.
    fn steps(&self) -> impl Iterator<Item = (&'static str, &Step)> {
        let needed = |(kind, _): &(&str, &Step)| match *kind {
            RDMA_READY => self.rdma_required,
            // Storage nodes serve without it.
            GATEWAY_READY => false,
            _ => true,
        };
        self.all_steps().into_iter().filter(needed)
    }

    /// Whether nothing is left to be done or waited for.
    pub fn settled(&self) -> bool {
        self.steps().all(|(_, step)| step.is_done()) && self.gateway.is_done()
    }

    /// The status to be shown after `old`; conditions that did not change keep their time.
    pub fn status(&self, old: &StorageClusterStatus, now: Timestamp) -> StorageClusterStatus {
        let needed: Vec<_> = self.steps().map(|(_, step)| step).collect();
        let mut told = summary(&needed, "the storage cluster serves requests");
        told.extend(self.all_steps().map(|(kind, step)| step.told(kind)));
        StorageClusterStatus {
            observed_generation: self.generation,
            conditions: conditions(told, self.generation, &old.conditions, now),
            endpoint: Some(self.endpoint.clone()),
            credentials_secret: Some(self.credentials_secret.clone()),
            storage_class_name: self.storage_class_name.clone(),
            image: Some(self.image.clone()),
            nodes: Some(self.counts.clone()),
            gateway: self
                .gateway_endpoint
                .clone()
                .map(|endpoint| GatewayStatus { endpoint }),
        }
    }
}

/// The condition of that type, as (status, reason, message).
pub fn told<'c>(conditions: &'c [Condition], kind: &str) -> Option<(&'c str, &'c str, &'c str)> {
    let found = conditions.iter().find(|condition| condition.type_ == kind)?;
    Some((&found.status, &found.reason, &found.message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use penstock_crds::conditions::{
        REASON_NAME_TAKEN, REASON_NO_DEVICE, REASON_NOT_INSTALLED, REASON_ROLLING_OUT,
    };

    fn findings(nodes: Step, class: Step) -> Findings {
        Findings {
            generation: Some(2),
            credentials: Step::done("the key pair is complete"),
            tls: Step::disabled("TLS is off"),
            storage_class: class,
            nodes,
            rdma: Step::failed(REASON_NO_DEVICE, "there is no RDMA device"),
            gateway: Step::disabled("gateway.enabled is false"),
            gateway_endpoint: None,
            rdma_required: false,
            counts: NodeCounts::new(1, 1, 1),
            endpoint: "http://demo.default.svc:9000".into(),
            credentials_secret: "demo-credentials".into(),
            storage_class_name: None,
            image: "penstock/store:1".into(),
        }
    }

    fn words<'s>(status: &'s StorageClusterStatus, kind: &str) -> (&'s str, &'s str) {
        told(&status.conditions, kind)
            .map(|(status, reason, _)| (status, reason))
            .unwrap()
    }

    #[test]
    fn ready_is_true_only_when_every_step_is() {
        let (old, now) = (StorageClusterStatus::default(), Timestamp::UNIX_EPOCH);
        let done = || Step::done("fine");
        let status = findings(done(), done()).status(&old, now);
        assert_eq!(words(&status, READY), ("True", REASON_READY));
        assert_eq!(words(&status, TLS_READY), ("True", REASON_DISABLED));

        let status = findings(Step::waiting(REASON_ROLLING_OUT, "0 of 1"), done()).status(&old, now);
        assert_eq!(words(&status, READY), ("False", REASON_ROLLING_OUT));
        assert_eq!(words(&status, PROGRESSING), ("True", REASON_ROLLING_OUT));
        assert_eq!(words(&status, DEGRADED), ("False", REASON_SETTLED));

        let status = findings(done(), Step::failed(REASON_NAME_TAKEN, "taken")).status(&old, now);
        assert_eq!(words(&status, READY), ("False", REASON_NAME_TAKEN));
        assert_eq!(words(&status, DEGRADED), ("True", REASON_NAME_TAKEN));
    }

    #[test]
    fn rdma_is_told_always_and_counts_when_it_is_required() {
        let mut found = findings(Step::done("fine"), Step::done("fine"));
        for (required, ready) in [(false, "True"), (true, "False")] {
            found.rdma_required = required;
            let status = found.status(&StorageClusterStatus::default(), Timestamp::UNIX_EPOCH);
            assert_eq!(words(&status, RDMA_READY), ("False", REASON_NO_DEVICE));
            assert_eq!(told(&status.conditions, READY).unwrap().0, ready);
        }
    }

    #[test]
    fn a_gateway_is_told_and_counts_for_nothing_else() {
        let mut found = findings(Step::done("fine"), Step::done("fine"));
        found.gateway = Step::failed(REASON_NOT_INSTALLED, "set csi.agent.gateway.enabled");
        let status = found.status(&StorageClusterStatus::default(), Timestamp::UNIX_EPOCH);
        assert_eq!(words(&status, GATEWAY_READY), ("False", REASON_NOT_INSTALLED));
        assert_eq!(words(&status, READY), ("True", REASON_READY));
        assert!(status.gateway.is_none() && !found.settled());
        found.gateway = Step::done("agents serve it");
        found.gateway_endpoint = Some("http://penstock-gateway-demo-default.penstock-system.svc:9000".into());
        let status = found.status(&status, Timestamp::UNIX_EPOCH);
        assert_eq!(words(&status, GATEWAY_READY), ("True", REASON_READY));
        assert_eq!(
            status.gateway.map(|gateway| gateway.endpoint),
            found.gateway_endpoint
        );
    }

    #[test]
    fn what_fails_is_told_before_what_waits() {
        let both = findings(
            Step::waiting(REASON_ROLLING_OUT, "0 of 1"),
            Step::failed(REASON_NAME_TAKEN, "taken"),
        );
        let status = both.status(&StorageClusterStatus::default(), Timestamp::UNIX_EPOCH);
        assert_eq!(words(&status, READY), ("False", REASON_NAME_TAKEN));
    }

    #[test]
    fn a_transition_keeps_its_time_until_the_next_one() {
        let later = Timestamp::from_second(1000).unwrap();
        let done = || Step::done("fine");
        let first = findings(done(), done()).status(&StorageClusterStatus::default(), Timestamp::UNIX_EPOCH);
        let second = findings(done(), done()).status(&first, later);
        assert_eq!(first, second);
        let third = findings(Step::waiting(REASON_ROLLING_OUT, "0 of 1"), done()).status(&second, later);
        assert_eq!(third.conditions[0].last_transition_time, Time(later));
        assert_eq!(
            third.conditions[3].last_transition_time,
            Time(Timestamp::UNIX_EPOCH)
        );
    }
}
