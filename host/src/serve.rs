//! `sconce serve`: choose a backend, listen, load, answer, drain.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::callback;
use crate::cli::OnFallback;
use crate::config::{ServeConfig, Worker};
use crate::error::{Error, Exit, ModelError};
use crate::http::{self, App, Stage};
use crate::models::{self, Loading, Model, ModelFiles, Slot};
use crate::registry::{Choice, Selection, select};
use crate::standing::{Standing, State};

/// For the last words of requests that are cut off.
const FAREWELL: Duration = Duration::from_secs(1);
/// For the engine thread to end after its last step.
const ENGINE_END: Duration = Duration::from_secs(5);

/// Serves until told to stop.
pub fn run(config: ServeConfig) -> Result<Exit, Error> {
    let runtime = tokio::runtime::Runtime::new()
        .map_err(|source| Error::System { what: "cannot start the async runtime", source })?;
    let mut selection = select(&config.engine.select)?;
    let choice = selection.open()?;
    selection.announce();
    let path = model_path(&config)?;
    let files =
        ModelFiles::open_with(&path, &config.replacements).map_err(|source| Error::model(&path, source))?;
    let choice = accepting(&mut selection, choice, &path, &files)?;
    let state = settled(&selection, &choice, config.on_fallback)?;
    files.announce_template();
    let start = Start { config, selection, path, files: Arc::new(files) };
    runtime.block_on(start.serve(choice, state))
}

/// The first backend, from this one on, that says it can load the model.
fn accepting(
    selection: &mut Selection,
    mut choice: Choice,
    path: &Path,
    files: &ModelFiles,
) -> Result<Choice, Error> {
    loop {
        match models::check(&choice.backend, &files.source) {
            Ok(()) => return Ok(choice),
            Err(error) => {
                drop(choice);
                choice = next_choice(selection, path, error)?;
            }
        }
    }
}

/// The backend to try after one that cannot run the model, or the error if none is left or none could do better.
fn next_choice(selection: &mut Selection, path: &Path, error: ModelError) -> Result<Choice, Error> {
    match selection.blame(&error) {
        None => Err(Error::model(path, error)),
        Some(verdict) => {
            selection.reject(verdict);
            selection.open()
        }
    }
}

/// Says what is used from now on, and that it is not what was wanted, if so; unless that is not to be.
fn settled(selection: &Selection, choice: &Choice, on_fallback: OnFallback) -> Result<State, Error> {
    selection.heed_fallback(on_fallback)?;
    let state = State::new(selection, choice);
    state.backend.announce();
    Ok(state)
}

/// The model asked for, or the embedded one, said aloud.
fn model_path(config: &ServeConfig) -> Result<PathBuf, Error> {
    if let Some(path) = &config.model {
        return Ok(path.clone());
    }
    let path = models::demo_model()?;
    tracing::warn!("no --model given: serving the embedded demo model, which tells tales and knows nothing");
    Ok(path)
}

/// What it takes to serve a model, and to go on with another backend if one cannot load it.
struct Start {
    config: ServeConfig,
    selection: Selection,
    path: PathBuf,
    files: Arc<ModelFiles>,
}

/// A model that is loaded or being loaded. Its thread holds on to the backend.
struct Running {
    engine: JoinHandle<()>,
    load_failed: oneshot::Receiver<ModelError>,
}

impl Start {
    async fn serve(mut self, choice: Choice, state: State) -> Result<Exit, Error> {
        let (listener, address) = listen(&self.config).await?;
        // From here on people know that the server is there, and may stop it.
        let mut signals = Signals::hear();
        tracing::info!("listening on http://{address}");
        let app = Arc::new(App::new(Arc::new(Standing::new(state)), self.config.http.clone()));
        let url = format!("http://{address}");
        let mut running = self.load(choice, &app, &url)?;
        let outcome = self.answer(listener, &app, &url, &mut running, &mut signals).await;
        ended(running.engine).await;
        outcome
    }

    /// Starts the engine thread, which loads the model.
    fn load(&self, choice: Choice, app: &Arc<App>, url: &str) -> Result<Running, Error> {
        let config = &self.config;
        let given = config.model_name.clone();
        let name = given.unwrap_or_else(|| models::name_of(&self.path, &self.files.source));
        app.models.set(&name, Slot::Loading(0));
        let plan = models::plan(&config.engine, &choice.device, config.scheduling.sequences);
        let (failed, load_failed) = oneshot::channel();
        let ready = Ready { app: app.clone(), name, url: url.to_owned(), files: self.files.clone() };
        let tell = ready.teller(config.worker.as_ref(), failed);
        let source = self.files.source.clone();
        let metrics = app.metrics.engine.clone();
        let engine = models::start(choice.backend, source, plan, config.scheduling, metrics, tell)?;
        Ok(Running { engine, load_failed })
    }

    /// Goes on with the next backend after one that could not load the model.
    async fn fall_back(
        &mut self,
        error: ModelError,
        app: &Arc<App>,
        url: &str,
        running: &mut Running,
    ) -> Result<(), Error> {
        let choice = next_choice(&mut self.selection, &self.path, error)?;
        let choice = accepting(&mut self.selection, choice, &self.path, &self.files)?;
        app.standing.set(settled(&self.selection, &choice, self.config.on_fallback)?);
        // The thread that failed has nothing left to do but to end.
        *running = self.load(choice, app, url)?;
        Ok(())
    }

    /// Answers requests until a signal, then lets the running ones finish within the drain timeout.
    async fn answer(
        &mut self,
        listener: TcpListener,
        app: &Arc<App>,
        url: &str,
        running: &mut Running,
        signals: &mut Signals,
    ) -> Result<Exit, Error> {
        let mut server = tokio::spawn(http::serve(listener, app.clone()));
        loop {
            tokio::select! {
                Ok(error) = &mut running.load_failed => {
                    if let Err(error) = self.fall_back(error, app, url, running).await {
                        app.progress.reach(Stage::Closing);
                        return Err(error);
                    }
                }
                () = signals.next() => break,
            }
        }
        drain(app, self.config.drain_timeout, &mut server, signals).await;
        Ok(Exit::Done)
    }
}

async fn listen(config: &ServeConfig) -> Result<(TcpListener, SocketAddr), Error> {
    let address = if config.host.contains(':') {
        format!("[{}]:{}", config.host.trim_matches(['[', ']']), config.port)
    } else {
        format!("{}:{}", config.host, config.port)
    };
    let bound = async {
        let listener = TcpListener::bind(&address).await?;
        let local = listener.local_addr()?;
        Ok((listener, local))
    };
    bound.await.map_err(|source| Error::Address { address, source })
}

/// What it takes to declare a model ready.
struct Ready {
    app: Arc<App>,
    name: String,
    url: String,
    files: Arc<ModelFiles>,
}

impl Ready {
    /// Hears the engine thread: shows progress, publishes the model, or reports why it could not be loaded.
    /// Once the server is shutting down, the model is no longer wanted.
    fn teller(
        self,
        worker: Option<&Worker>,
        failed: oneshot::Sender<ModelError>,
    ) -> impl Fn(Loading) -> bool + Send + 'static {
        let Ready { app, name, url, files } = self;
        let worker = worker.map(|w| (w.clone(), w.advertise.clone().unwrap_or(url.clone())));
        // Used once; the closure may be called often.
        let failed = std::sync::Mutex::new(Some(failed));
        move |loading| {
            match loading {
                _ if app.is_draining() => {}
                Loading::Percent(percent) => app.models.set(&name, Slot::Loading(percent)),
                Loading::Failed(error) => {
                    let failed = failed.lock().expect("no holder panics").take();
                    // Without a listener the server is already going down.
                    let _ = failed.map(|failed| failed.send(error));
                }
                Loading::Ready { engine, facts, stats } => {
                    let files = files.clone();
                    let message = worker.as_ref().map(|(worker, advertised)| {
                        (
                            worker,
                            callback::message(worker, advertised, &app.standing.now().backend, &name, &facts),
                        )
                    });
                    let created = models::now_seconds();
                    let model = Model { name: name.clone(), files, facts, stats, engine, created };
                    app.models.set(&name, Slot::Ready(Arc::new(model)));
                    tracing::info!("ready: {name} at {url}");
                    // After the model answers: a quick manager sends work at once.
                    message
                        .into_iter()
                        .for_each(|(worker, m)| callback::spawn(worker.callback_url.clone(), m));
                }
            }
            !app.is_draining()
        }
    }
}

/// Lets running requests finish within the drain timeout, then cuts them off.
async fn drain(
    app: &App,
    timeout: Duration,
    server: &mut tokio::task::JoinHandle<()>,
    signals: &mut Signals,
) {
    tracing::info!("draining: running requests get {} s, a second signal ends them", timeout.as_secs());
    app.progress.reach(Stage::Draining);
    let cut_off = tokio::select! {
        _ = &mut *server => None,
        () = tokio::time::sleep(timeout) => Some("the drain timeout is over"),
        () = signals.next() => Some("a second signal came"),
    };
    for model in app.models.ready() {
        model.engine.abort();
    }
    if let Some(why) = cut_off {
        tracing::warn!("{why}: requests still running are cut off");
        // They still get to say so.
        let _ = tokio::time::timeout(FAREWELL, server).await;
    }
    app.progress.reach(Stage::Closing);
}

/// SIGTERM and SIGINT, heard from the moment this exists; until then they end the process as they do any.
struct Signals {
    #[cfg(unix)]
    streams: Option<[tokio::signal::unix::Signal; 2]>,
}

impl Signals {
    #[cfg(unix)]
    fn hear() -> Self {
        use tokio::signal::unix::{SignalKind, signal};
        let terminate = signal(SignalKind::terminate());
        let streams = terminate.and_then(|terminate| Ok([terminate, signal(SignalKind::interrupt())?]));
        if let Err(error) = &streams {
            tracing::error!("signals cannot be heard, stop the server with SIGKILL: {error}");
        }
        Signals { streams: streams.ok() }
    }

    #[cfg(not(unix))]
    fn hear() -> Self {
        Signals {}
    }

    /// Waits for the next one.
    async fn next(&mut self) {
        #[cfg(unix)]
        if let Some([terminate, interrupt]) = &mut self.streams {
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
            return;
        }
        #[cfg(not(unix))]
        if tokio::signal::ctrl_c().await.is_ok() {
            return;
        }
        std::future::pending::<()>().await;
    }
}

/// Waits for the engine thread, so that its executor and its backend are dropped in order. A thread that does not
/// end, say in the middle of a load, is left to the end of the process.
async fn ended(engine: JoinHandle<()>) {
    let deadline = Instant::now() + ENGINE_END;
    while !engine.is_finished() && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    if !engine.is_finished() {
        tracing::warn!("the engine thread does not end; leaving it behind");
    }
}
