//! `serin top`: the rollouts of a running proxy, live on a terminal.
//!
//! Never leaves a terminal as it must not be left: whatever ends it, a key, a signal or a panic,
//! the screen is given back first.

mod draw;
mod model;

use std::io::{IsTerminal, stdin, stdout};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::cli::client::{self, AdminArgs, Client, ClientError};
use crate::clock::Clock;
use crate::control::api::RolloutsView;
use model::{Act, Endpoint, Key, Model, Seen};

/// From one look to the next.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A signal is seen so late at most.
const WAIT_MAX: Duration = Duration::from_millis(200);

/// What `serin top` is told.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Keys: up and down (or k and j) select a rollout; p promote, s pause, r \
    resume, a abort, x reset, each asked for once more; ? help; q quit.\n\nExit codes: 0; 1 not \
    a terminal; 3 no proxy answers.\n\nExamples:\n  serin top\n  \
    serin top -c /etc/serin/serin.yaml")]
pub struct TopArgs {
    /// Which proxy.
    #[command(flatten)]
    pub admin: AdminArgs,
}

/// Shows the rollouts until somebody has seen enough.
pub fn run(args: &TopArgs) -> anyhow::Result<ExitCode> {
    if !(stdout().is_terminal() && stdin().is_terminal()) {
        anyhow::bail!(
            "`serin top` needs a terminal; where there is none, `serin status --watch` writes a \
             line for each change, and `serin status -o json` data"
        );
    }
    let end = Arc::new(AtomicBool::new(false));
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&end)).context("cannot hear signals")?;
    }
    client::with(&args.admin, |client| {
        let mut model = Model::new(client.address());
        // Nobody there is told on the terminal as it was.
        model.see(Ok(look(client)?));
        // From here on a panic gives the terminal back as well.
        let mut terminal = ratatui::try_init()?;
        let shown = show(&mut terminal, client, &mut model, &end);
        ratatui::restore();
        shown.map(|()| ExitCode::SUCCESS)
    })
}

fn show(
    terminal: &mut DefaultTerminal,
    client: &Client,
    model: &mut Model,
    end: &AtomicBool,
) -> Result<(), ClientError> {
    let colours = client::colours();
    let clock = Clock::start();
    let mut next = clock.now().after(LOOK_EVERY);
    while !end.load(Ordering::Relaxed) {
        terminal.draw(|frame| draw::draw(frame, model, colours))?;
        let now = clock.now();
        if now >= next {
            model.see(look(client).map_err(|error| error.to_string()));
            next = clock.now().after(LOOK_EVERY);
            continue;
        }
        if !event::poll(next.since(now).min(WAIT_MAX))? {
            continue;
        }
        let Event::Key(pressed) = event::read()? else { continue };
        if pressed.kind == KeyEventKind::Release {
            continue;
        }
        let control = pressed.modifiers.contains(KeyModifiers::CONTROL);
        let key = match pressed.code {
            KeyCode::Char('c') if control => return Ok(()),
            KeyCode::Up => Key::Up,
            KeyCode::Down => Key::Down,
            KeyCode::Esc => Key::Escape,
            KeyCode::Char(letter) => Key::Letter(letter),
            _ => continue,
        };
        match model.press(key) {
            Act::Nothing => {}
            Act::Quit => return Ok(()),
            Act::Operate { rollout, verb } => {
                let path = format!("{}/{}", client::rollout_path(&rollout), verb.as_str());
                let done = client.post(&path).map(drop);
                model.told(&rollout, verb, done.map_err(|error| error.to_string()));
                // What came of it is shown at once.
                next = clock.now();
            }
        }
    }
    Ok(())
}

fn look(client: &Client) -> Result<Seen, ClientError> {
    let rollouts = client.get("/api/rollouts")?;
    let rollouts: Result<RolloutsView, _> = serde_json::from_slice(&rollouts);
    let rollouts = rollouts.map_err(|_| client.stranger())?.rollouts;
    let metrics = client.get("/metrics")?;
    let endpoints = Endpoint::all_of(&String::from_utf8_lossy(&metrics));
    Ok(Seen { rollouts, endpoints })
}
