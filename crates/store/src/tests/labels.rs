//! Labels of tasks: on the whole and all its parts at once, never fewer, over restarts too.

use std::collections::{BTreeMap, BTreeSet};

use bailiwick_core::{EndReason, InstanceId, Labels, Task, TaskId, TaskState};
use proptest::prelude::*;

use super::{at, check_whole, open, task};
use crate::{Entry, Opening, Store, StoreError};

fn part(n: u64, of: &Task) -> Task {
    let chain = std::iter::once(of.hop()).chain(of.chain.iter().cloned()).collect();
    Task { chain, ..task(n) }
}

fn labels(names: &[&str]) -> Labels {
    Labels::new(names.iter().map(|name| name.parse().unwrap())).unwrap()
}

async fn put(store: &Store, of: &Task, names: &[&str]) -> Option<u64> {
    let (whole, labels, id) = (of.whole(), labels(names), of.id);
    store.write(move |w| w.label_whole(whole, &labels, Entry::new("labelled", b"l".to_vec()).of_task(id))).await.unwrap()
}

async fn of(store: &Store, id: TaskId) -> Labels {
    store.task(id).await.unwrap().unwrap().labels
}

#[tokio::test]
async fn a_label_is_on_the_whole_and_all_its_open_parts_and_on_each_later_one_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (whole, other) = (task(1), task(9));
    let (left, right) = (part(2, &whole), part(3, &whole));
    let below = part(4, &left);
    for of in [&whole, &left, &right, &below, &other] {
        store.open_task(of, Vec::new()).await.unwrap();
    }
    store.end_task(right.id, TaskState::Closing { reason: EndReason::Completed, at: at(2000) }, Vec::new()).await.unwrap();
    assert!(put(&store, &below, &["untrusted"]).await.is_some());
    let before = store.head().size;
    assert_eq!(put(&store, &left, &["untrusted"]).await, None, "it is there already");
    assert_eq!(store.head().size, before, "and no second entry says so");
    let late = part(5, &whole);
    store.open_task(&late, Vec::new()).await.unwrap();
    assert!(put(&store, &late, &["untrusted", "pii"]).await.is_some());
    store.close().await;
    drop(store);
    let store = open(dir.path());
    for id in [whole.id, left.id, below.id, late.id] {
        assert_eq!(of(&store, id).await, labels(&["pii", "untrusted"]), "{id}");
    }
    assert_eq!(of(&store, right.id).await, Labels::default(), "it had ended before");
    assert_eq!(of(&store, other.id).await, Labels::default());
    let listed = store.tasks(crate::TaskFilter { parent: Some(whole.id), ..Default::default() }).await.unwrap();
    assert_eq!(listed.iter().find(|row| row.task.id == late.id).unwrap().labels, labels(&["pii", "untrusted"]));
    check_whole(&store).await;
}

#[tokio::test]
async fn labels_beyond_the_bound_and_of_no_task_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let whole = task(1);
    store.open_task(&whole, Vec::new()).await.unwrap();
    let many: Vec<String> = (0..32).map(|n| format!("l{n}")).collect();
    put(&store, &whole, &many.iter().map(String::as_str).collect::<Vec<_>>()).await.unwrap();
    let (id, full, size) = (whole.id, of(&store, whole.id).await, store.head().size);
    for (whole, more) in [(id, labels(&["one-more"])), (task(2).id, labels(&["untrusted"]))] {
        let refused = store.write(move |w| w.label_whole(whole, &more, Entry::new("labelled", Vec::new()))).await;
        assert!(matches!(refused, Err(StoreError::Conflict { .. })), "{refused:?}");
    }
    assert_eq!((of(&store, id).await, store.head().size), (full, size));
}

#[tokio::test]
async fn what_a_model_opens_begins_with_what_the_tasks_of_its_running_copy_were_given() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let instance = |n: u8| InstanceId::new(at(1), [n; 10]);
    let of_copy = move |n: u64, copy: u8| Task { instance: instance(copy), ..task(n) };
    let begun = async |store: &Store, task: Task, named: bool, by_model: bool| {
        let how = Opening { named, by_model };
        store.write(move |w| w.open_task(&task, how, |labels| serde_json::to_vec(labels).unwrap())).await.unwrap()
    };
    let none = Labels::default();
    // Two tasks of a copy that has a name; one of them ends. One of another copy, and one of another agent with the same instance.
    assert_eq!(begun(&store, of_copy(1, 1), true, true).await, none);
    assert_eq!(begun(&store, of_copy(2, 1), true, false).await, none);
    assert_eq!(begun(&store, of_copy(3, 2), true, true).await, none);
    let other = Task { agent: "another".parse().unwrap(), ..of_copy(4, 1) };
    assert_eq!(begun(&store, other.clone(), true, true).await, none);
    put(&store, &of_copy(1, 1), &["untrusted"]).await;
    put(&store, &of_copy(2, 1), &["pii"]).await;
    store.end_task(of_copy(1, 1).id, TaskState::Closing { reason: EndReason::Completed, at: at(2000) }, Vec::new()).await.unwrap();
    assert_eq!(begun(&store, of_copy(5, 1), true, true).await, labels(&["pii", "untrusted"]), "of those that have ended too, and by whichever door");
    assert_eq!(of(&store, of_copy(5, 1).id).await, labels(&["pii", "untrusted"]));
    let body = store.entries(0..store.head().size).await.unwrap().last().unwrap().body.clone();
    assert_eq!(body, br#"["pii","untrusted"]"#, "its entry says so");
    assert_eq!(begun(&store, of_copy(6, 1), true, false).await, none, "the agent's own code opens a new piece of work");
    assert_eq!(begun(&store, of_copy(7, 2), true, true).await, none, "another copy has read nothing of it");
    assert_eq!(begun(&store, Task { id: task(8).id, ..other }, true, true).await, none, "nor has another agent");
    // A copy without a name may be any of those that have none, and is none of those that have one.
    assert_eq!(begun(&store, of_copy(10, 10), false, true).await, none);
    put(&store, &of_copy(10, 10), &["secret"]).await;
    assert_eq!(begun(&store, of_copy(11, 11), false, true).await, labels(&["secret"]));
    assert_eq!(begun(&store, of_copy(12, 12), true, true).await, none);
    store.close().await;
    drop(store);
    let store = open(dir.path());
    assert_eq!(begun(&store, of_copy(13, 1), true, true).await, labels(&["pii", "untrusted"]), "after a restart too");
    let told = store.labels_of_copy(&task(1).agent, instance(13), false).await.unwrap();
    assert_eq!(told, [labels(&["secret"])], "the sets, each once");
    // What would be too many is not opened.
    let many: Vec<String> = (0..32).map(|n| format!("l{n}")).collect();
    put(&store, &of_copy(6, 1), &many.iter().map(String::as_str).collect::<Vec<_>>()).await.unwrap();
    let how = Opening { named: true, by_model: true };
    let refused = store.write(move |w| w.open_task(&of_copy(14, 1), how, |_| Vec::new())).await;
    assert!(matches!(refused, Err(StoreError::Conflict { .. })), "{refused:?}");
    assert!(store.task(task(14).id).await.unwrap().is_none());
    check_whole(&store).await;
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// A task of its own.
    Open,
    /// A part of the task of this number.
    Part(usize),
    /// This task is about to be given data with this label.
    Give(usize, usize),
    /// This task ends, with its parts.
    End(usize),
    Restart,
}

const NAMES: [&str; 4] = ["model-authored", "pii", "secret", "untrusted"];

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => Just(Step::Open),
        4 => (0usize..12).prop_map(Step::Part),
        6 => (0usize..12, 0..NAMES.len()).prop_map(|(of, label)| Step::Give(of, label)),
        1 => (0usize..12).prop_map(Step::End),
        1 => Just(Step::Restart),
    ]
}

/// What is known without the store: the tasks, what each was given while it was open, and which are open.
#[derive(Default)]
struct Model {
    tasks: Vec<Task>,
    open: BTreeSet<TaskId>,
    given: BTreeMap<TaskId, BTreeSet<&'static str>>,
    /// What a whole had been given when a task of it was opened.
    begun: BTreeMap<TaskId, BTreeSet<&'static str>>,
}

impl Model {
    fn add(&mut self, task: Task) {
        let before = self.of_whole(task.whole());
        self.begun.insert(task.id, before);
        self.open.insert(task.id);
        self.tasks.push(task);
    }

    fn of_whole(&self, whole: TaskId) -> BTreeSet<&'static str> {
        let all = self.tasks.iter().filter(|t| t.whole() == whole);
        all.flat_map(|t| self.given.get(&t.id).into_iter().flatten().copied()).collect()
    }

    async fn check(&self, store: &Store) -> Result<(), TestCaseError> {
        for task in &self.tasks {
            let has = of(store, task.id).await;
            let is = |name: &str| has.iter().any(|l| l.as_str() == name);
            // What it, or a part of it, was given; what the whole had been given before; and nothing that nobody of the whole was given.
            let below = self.tasks.iter().filter(|t| t.id == task.id || t.chain.iter().any(|hop| hop.task == task.id));
            let while_open = below.flat_map(|t| self.given.get(&t.id).into_iter().flatten());
            for name in while_open.chain(&self.begun[&task.id]) {
                prop_assert!(is(name), "{} misses {name}: {has:?}", task.id);
            }
            let known = self.of_whole(task.whole());
            prop_assert!(has.iter().all(|l| known.contains(l.as_str())), "{} has {has:?}, and was given {known:?}", task.id);
            if let Some(parent) = task.parent().filter(|_| self.open.contains(&task.id)) {
                prop_assert!(has.within(&of(store, parent).await), "a part has what the whole has not");
                prop_assert!(of(store, parent).await.within(&has), "a part has not what the whole has");
            }
        }
        Ok(())
    }
}

async fn walk(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    let mut model = Model::default();
    for (n, step) in (1u64..).zip(steps) {
        let chosen = |model: &Model, of: usize| model.tasks.get(of).filter(|t| model.open.contains(&t.id)).cloned();
        match step {
            Step::Open => {
                store.open_task(&task(n), Vec::new()).await.unwrap();
                model.add(task(n));
            }
            Step::Part(whole) => {
                let Some(whole) = chosen(&model, whole).filter(|t| t.chain.len() < 4) else { continue };
                store.open_task(&part(n, &whole), Vec::new()).await.unwrap();
                model.add(part(n, &whole));
            }
            Step::Give(to, label) => {
                let Some(to) = chosen(&model, to) else { continue };
                put(&store, &to, &[NAMES[label]]).await;
                model.given.entry(to.id).or_default().insert(NAMES[label]);
            }
            Step::End(id) => {
                let Some(task) = chosen(&model, id) else { continue };
                let ended = store.end_whole(task.id, (EndReason::Completed, at(3000)), Vec::new(), |_| Vec::new()).await.unwrap();
                for (id, _) in &ended {
                    model.open.remove(id);
                }
            }
            Step::Restart => {
                store.close().await;
                drop(store);
                store = open(dir.path());
            }
        }
    }
    model.check(&store).await?;
    store.close().await;
    drop(store);
    model.check(&open(dir.path())).await
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn a_task_has_the_labels_of_all_that_it_and_its_parts_were_given_whatever_happens_in_between(steps in prop::collection::vec(step(), 1..40)) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(walk(steps))?;
    }
}
