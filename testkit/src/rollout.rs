//! A rollout as the admin port shows it.

use serde_json::Value;

use crate::client::Answer;
use crate::proxy::Proxy;
use crate::time::eventually;

/// A rollout of a running proxy.
#[derive(Clone, Debug)]
pub struct Rollout<'p> {
    proxy: &'p Proxy,
    name: String,
}

impl<'p> Rollout<'p> {
    pub(crate) fn new(proxy: &'p Proxy, name: &str) -> Self {
        Self { proxy, name: name.to_owned() }
    }

    fn path(&self) -> String {
        format!("/api/rollouts/{}", self.name)
    }

    /// Its JSON.
    pub async fn view(&self) -> Value {
        self.proxy.admin(&self.path()).await.expect(200).json()
    }

    /// Its state.
    pub async fn state(&self) -> String {
        self.view().await["state"].as_str().unwrap_or_default().to_owned()
    }

    /// Waits until it is in `state`, and returns it then.
    pub async fn expect(&self, state: &str) -> Value {
        let what = format!("{} is {state}", self.name);
        eventually(&what, async || {
            let view = self.view().await;
            (view["state"] == state).then_some(view)
        })
        .await
    }

    /// Waits until it is rolled back for `objective`, and returns it then.
    pub async fn expect_rolled_back(&self, objective: &str) -> Value {
        let view = self.expect("rolled_back").await;
        let reason = view["reason"].as_str().unwrap_or_default();
        assert!(reason.starts_with(&format!("{objective}: ")), "{reason}");
        assert_eq!(view["weight"], 0.0);
        view
    }

    /// Waits until it is held for `reason`.
    pub async fn expect_held(&self, reason: &str) -> Value {
        let what = format!("{} is held for {reason}", self.name);
        eventually(&what, async || {
            let view = self.view().await;
            (view["hold_reason"] == reason).then_some(view)
        })
        .await
    }

    /// An operator's verb.
    pub async fn ask(&self, verb: &str) -> Answer {
        self.proxy.ask(&format!("{}/{verb}", self.path())).await
    }
}
