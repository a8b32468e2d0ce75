//! Endpoints that are restarted, added and taken away under load: nobody notices.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use serin_testkit::{Backend, Proxy, ProxyBuilder, Script, eventually, ms, within};

/// One rule, one backend with the endpoints `all`, `more` keys of the backend, and `rule` of
/// the rule.
fn proxy_before(all: &[Backend], more: &str, rule: &str) -> ProxyBuilder {
    let first = format!("endpoints: [{}]", all[0].address);
    Proxy::to(&all[0], rule).replace(&first, &format!("endpoints: [{}]{more}", list(all)))
}

fn list(all: &[Backend]) -> String {
    let addresses: Vec<_> = all.iter().map(|one| one.address.to_string()).collect();
    addresses.join(", ")
}

/// Clients that ask again and again, until told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    clients: Vec<tokio::task::JoinHandle<Vec<u16>>>,
}

impl Load {
    fn start(proxy: &Proxy, clients: usize) -> Self {
        let (stop, answered) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let client = |_| {
            let (mut client, stop) = (proxy.client(), Arc::clone(&stop));
            let answered = Arc::clone(&answered);
            tokio::spawn(async move {
                let mut failed = Vec::new();
                while !stop.load(SeqCst) {
                    let status = client.get("/").await.status;
                    answered.fetch_add(1, SeqCst);
                    failed.extend((status != 200).then_some(status));
                }
                failed
            })
        };
        let clients = (0..clients).map(client).collect();
        Self { stop, answered, clients }
    }

    /// Waits until so many more are answered.
    async fn goes_on(&self, more: u64) {
        let enough = self.answered.load(SeqCst) + more;
        eventually(&format!("{more} more are answered"), async || {
            (self.answered.load(SeqCst) >= enough).then_some(())
        })
        .await;
    }

    /// Every status but 200 that a client got.
    async fn failures(self) -> Vec<u16> {
        self.stop.store(true, SeqCst);
        let mut failed = Vec::new();
        for client in self.clients {
            failed
                .extend(within("a client's end", client).await.expect("every client was answered"));
        }
        failed
    }
}

async fn until_healthy(proxy: &Proxy, endpoint: &Backend, wanted: bool) {
    let address = endpoint.address.to_string();
    let labels = [("endpoint", address.as_str())];
    eventually(&format!("{} is healthy: {wanted}", endpoint.name), async || {
        let value = proxy.metrics().await.value("serin_endpoint_healthy", &labels);
        ((value > 0.5) == wanted).then_some(())
    })
    .await;
}

fn models(count: usize) -> Vec<Backend> {
    let model = |index| {
        let model = Backend::named(&format!("model-{index}")).after(ms(5));
        model.on("/ready", Script::answers(200)).start()
    };
    (0..count).map(model).collect()
}

const HEALTH: &str = ", health: { path: /ready, interval: 100ms, unhealthy_threshold: 2 }";

#[tokio::test]
async fn endpoints_that_say_so_before_they_restart_cost_nobody_a_request() {
    let all = models(3);
    let proxy = proxy_before(&all, HEALTH, "").start();
    let load = Load::start(&proxy, 16);
    load.goes_on(100).await;
    for one in &all {
        one.now_on("/ready", Script::answers(503));
        until_healthy(&proxy, one, false).await;
        // What is under way is finished before it stops.
        eventually("it is idle", async || (one.under_way() == 0).then_some(())).await;
        one.dies().await;
        load.goes_on(100).await;
        one.revives().await;
        one.now_on("/ready", Script::answers(200));
        until_healthy(&proxy, one, true).await;
        let before = one.requests();
        eventually("it serves again", async || (one.requests() > before + 50).then_some(())).await;
    }
    let answered = load.answered.load(SeqCst);
    assert_eq!(load.failures().await, [0u16; 0], "of {answered}");
}

#[tokio::test]
async fn endpoints_that_die_without_a_word_cost_nobody_a_request_where_it_may_be_sent_again() {
    let all = models(3);
    let retry = "retry: { attempts: 2, budget: 100%, on: [connect, reset] }";
    let proxy = proxy_before(&all, HEALTH, retry).start();
    let load = Load::start(&proxy, 16);
    load.goes_on(100).await;
    for one in &all {
        one.dies().await;
        until_healthy(&proxy, one, false).await;
        load.goes_on(100).await;
        one.revives().await;
        until_healthy(&proxy, one, true).await;
        load.goes_on(100).await;
    }
    assert_eq!(load.failures().await, [0u16; 0]);
}

/// Whether each is within a tenth of the mean.
fn is_even(counts: &[u64]) -> bool {
    let mean = counts.iter().sum::<u64>() as f64 / counts.len() as f64;
    counts.iter().all(|count| (*count as f64 / mean - 1.0).abs() < 0.1)
}

#[tokio::test]
async fn two_endpoints_become_five_and_one_and_all_are_equally_busy() {
    let all = models(5);
    let mut proxy = proxy_before(&all[..2], "", "").start();
    let load = Load::start(&proxy, 40);
    load.goes_on(300).await;
    proxy.rewrite(&list(&all[..2]), &list(&all));
    proxy.reload().await.expect(200);
    load.goes_on(300).await;

    // An endpoint that stalls on a busy machine gets less for a while, and should: one of a few
    // looks has to be a quiet one.
    let mut looks = Vec::<Vec<u64>>::new();
    while looks.len() < 6 && !looks.last().is_some_and(|counts| is_even(counts)) {
        let before: Vec<_> = all.iter().map(Backend::requests).collect();
        load.goes_on(5_000).await;
        looks.push(all.iter().zip(before).map(|(one, n)| one.requests() - n).collect());
    }
    assert!(looks.last().is_some_and(|counts| is_even(counts)), "{looks:?}");

    proxy.rewrite(&list(&all), &list(&all[4..]));
    proxy.reload().await.expect(200);
    load.goes_on(300).await;
    let rest: Vec<_> = all[..4].iter().map(Backend::requests).collect();
    load.goes_on(300).await;
    assert_eq!(rest, all[..4].iter().map(Backend::requests).collect::<Vec<_>>());
    assert_eq!(load.failures().await, [0u16; 0]);
}
