//! What must hold in every state, and that each rule is needed for it.

use super::model::{Action, Kind, Operation, Outcome, Phase, Protocol, Rule, State};
use stateright::{Checker, HasDiscoveries, Model, Property, UniformChooser};
use std::{collections::HashSet, time::Duration};

const UNTOUCHED: &str = "no device touches memory that its caller has again";
const DRAINED: &str = "no answer leaves before the drain";
const ONCE: &str = "a sequence number of a session moves bytes once";
const CLOSED: &str = "a window is closed, or its queue pair dead, before its bytes are looked at";
const WHOLE: &str = "what is stored has arrived whole, and what failed is not stored";
const KEPT: &str = "a PUT that its client calls done is stored";

const SUCCEED: &str = "both succeed";
const AGAIN: &str = "another session succeeds after one that died";
const REFUSED: &str = "a recording is refused";
const UNKNOWN: &str = "a PUT is stored although its client does not know";

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![self.start()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        actions.extend(self.possible(state));
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        Some(self.after(state, action))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(UNTOUCHED, |_, state: &State| !state.touched),
            Property::always(DRAINED, |_, state: &State| {
                let drained = |operations: &[Operation]| !operations.contains(&Operation::UnderWay);
                state
                    .works
                    .iter()
                    .all(|work| work.answered.is_none() || drained(&work.operations))
            }),
            Property::always(ONCE, |_, state: &State| {
                let mut seen = HashSet::new();
                state
                    .works
                    .iter()
                    .all(|work| seen.insert((state.sessions[work.session].id, work.sequence)))
            }),
            Property::always(CLOSED, |_, state: &State| {
                state.requests.iter().all(|request| {
                    !matches!(request.phase, Phase::Used(_))
                        || !request.open
                        || !state.sessions[request.session].client_alive
                })
            }),
            Property::always(WHOLE, |_, state: &State| {
                let whole = |operations: &[Operation]| operations.iter().all(|one| *one == Operation::Done);
                state.works.iter().all(|work| {
                    !work.stored || whole(&work.operations) && work.answered == Some(Outcome::Success)
                })
            }),
            Property::always(KEPT, |_, state: &State| {
                state.requests.iter().enumerate().all(|(index, request)| {
                    request.phase != Phase::Used(Outcome::Success)
                        || request.kind == Kind::Get
                        || state
                            .works
                            .iter()
                            .any(|work| work.request == index && work.stored)
                })
            }),
            // That the model does what it is for.
            Property::sometimes(SUCCEED, |_, state: &State| {
                let done = |phase| phase == Phase::Used(Outcome::Success);
                state.requests.iter().all(|request| done(request.phase))
            }),
            Property::sometimes(AGAIN, |_, state: &State| {
                state
                    .requests
                    .iter()
                    .any(|request| request.session > 0 && request.phase == Phase::Used(Outcome::Success))
            }),
            Property::sometimes(REFUSED, |_, state: &State| state.refused),
            Property::sometimes(UNKNOWN, |_, state: &State| {
                state.works.iter().any(|work| {
                    work.stored && state.requests[work.request].phase == Phase::Used(Outcome::Failure)
                })
            }),
        ]
    }
}

const WHOLE_PROTOCOL: Protocol = Protocol {
    without: None,
    faults: 2,
};

/// All orders of events up to a number of states: there are more than any machine holds.
#[test]
fn every_order_of_events_keeps_the_promises() {
    let soak = std::env::var("PENSTOCK_SOAK").is_ok_and(|value| value == "1");
    let states = if soak { 20_000_000 } else { 3_000_000 };
    let checked = WHOLE_PROTOCOL
        .checker()
        .threads(2)
        .target_state_count(states)
        .spawn_bfs()
        .join();
    for promise in [UNTOUCHED, DRAINED, ONCE, CLOSED, WHOLE, KEPT] {
        checked.assert_no_discovery(promise);
    }
    println!(
        "{} states, {} events deep",
        checked.unique_state_count(),
        checked.max_depth()
    );
}

/// Orders taken at random lead to the end, and to what the model is for; no promise is broken there either.
#[test]
fn orders_at_random_reach_what_the_model_is_for() {
    let wanted = [SUCCEED, AGAIN, REFUSED, UNKNOWN];
    let checked = WHOLE_PROTOCOL
        .checker()
        .finish_when(HasDiscoveries::AllOf(wanted.into()))
        .timeout(Duration::from_secs(60))
        .spawn_simulation(0, UniformChooser)
        .join();
    for reached in wanted {
        assert!(checked.discovery(reached).is_some(), "never: {reached}");
    }
    for promise in [UNTOUCHED, DRAINED, ONCE, CLOSED, WHOLE, KEPT] {
        checked.assert_no_discovery(promise);
    }
}

/// Each rule is left out, and the property that rests on it must break.
#[test]
fn the_checks_of_this_suite_can_fail() {
    for (rule, broken) in [
        (Rule::DrainBeforeAnswer, DRAINED),
        (Rule::KillBeforeAnswer, DRAINED),
        (Rule::StoreWhole, WHOLE),
        (Rule::UseOnce, ONCE),
        (Rule::FreshSessions, ONCE),
        (Rule::CloseBeforeUse, CLOSED),
        (Rule::KillInDoubt, UNTOUCHED),
    ] {
        let protocol = Protocol {
            without: Some(rule),
            faults: 2,
        };
        let wanted = HasDiscoveries::AllOf([broken].into());
        let checked = protocol
            .checker()
            .threads(2)
            .finish_when(wanted)
            .spawn_bfs()
            .join();
        let found = checked.discovery(broken);
        assert!(found.is_some(), "without {rule:?} nothing breaks “{broken}”");
    }
}
