//! `sconce serve`: choose a backend, listen, load, answer, drain.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::callback;
use crate::config::ServeConfig;
use crate::error::{Error, Exit, ModelError};
use crate::http::{App, BackendFacts, router};
use crate::metrics::{BackendLabels, Metrics};
use crate::models::{self, Loading, Model, ModelFiles, Models, Slot};
use crate::registry::{Choice, select};

/// For the last words of requests that are cut off.
const FAREWELL: Duration = Duration::from_secs(1);
/// For the engine thread to end after its last step.
const ENGINE_END: Duration = Duration::from_secs(5);

/// Serves until told to stop.
pub fn run(config: ServeConfig) -> Result<Exit, Error> {
    let runtime = tokio::runtime::Runtime::new()
        .map_err(|source| Error::System { what: "cannot start the async runtime", source })?;
    let choice = select(&config.engine)?;
    let path = model_path(&config)?;
    let files =
        ModelFiles::open_with(&path, &config.replacements).map_err(|source| Error::model(&path, source))?;
    models::check(&choice.backend, &path, &files.source)?;
    let backend = facts(&choice);
    announce(&backend);
    files.announce_template();
    runtime.block_on(serve(config, choice, backend, path, files))
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

fn announce(backend: &BackendFacts) {
    tracing::info!(
        "backend {} {} ({}) on {} {}, ABI {} (preview), from {}",
        backend.id,
        backend.version,
        format!("{} {}", backend.variant, backend.engine).trim(),
        backend.device.kind,
        backend.device.name,
        backend.abi,
        backend.plugin,
    );
}

fn facts(choice: &Choice) -> BackendFacts {
    let b = &choice.backend;
    BackendFacts {
        id: b.id.clone(),
        variant: b.variant.clone(),
        version: b.version.clone(),
        engine: b.engine.clone(),
        abi: b.abi.clone(),
        plugin: choice.path.display().to_string(),
        device: choice.device.clone(),
        test: choice.test,
    }
}

fn labels(backend: &BackendFacts) -> BackendLabels {
    BackendLabels {
        backend: backend.id.clone(),
        variant: backend.variant.clone(),
        device: backend.device.name.clone(),
        plugin_version: backend.version.clone(),
        host_version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

async fn serve(
    config: ServeConfig,
    choice: Choice,
    backend: BackendFacts,
    path: PathBuf,
    files: ModelFiles,
) -> Result<Exit, Error> {
    let (listener, address) = listen(&config).await?;
    // From here on people know that the server is there, and may stop it.
    let mut signals = Signals::hear();
    tracing::info!("listening on http://{address}");
    let models = Arc::new(Models::default());
    let name = config.model_name.clone().unwrap_or_else(|| models::name_of(&path, &files.source));
    models.set(&name, Slot::Loading(0));
    let app = Arc::new(App {
        metrics: Metrics::new(labels(&backend), models.clone()),
        models,
        backend,
        draining: AtomicBool::new(false),
        started: Instant::now(),
    });
    let opened = Arc::new(choice.backend);
    let plan = models::plan(&config.engine, &choice.device, config.max_sequences);
    let ready = Ready { app: app.clone(), name, url: format!("http://{address}"), files, config: &config };
    let (failed, load_failed) = oneshot::channel();
    let source = ready.files.source.clone();
    let tell = ready.teller(failed);
    let engine = models::start(opened.clone(), source, plan, config.queue, app.metrics.engine.clone(), tell)?;
    let outcome = answer(listener, &app, &config, &mut signals, load_failed).await;
    if ended(engine).await {
        opened.shutdown();
    }
    outcome.map_err(|source| Error::model(&path, source))
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
struct Ready<'a> {
    app: Arc<App>,
    name: String,
    url: String,
    files: ModelFiles,
    config: &'a ServeConfig,
}

impl Ready<'_> {
    /// Hears the engine thread: shows progress, publishes the model, or reports why it could not be loaded.
    /// Once the server is shutting down, the model is no longer wanted.
    fn teller(self, failed: oneshot::Sender<ModelError>) -> impl Fn(Loading) -> bool + Send + 'static {
        let Ready { app, name, url, files, config } = self;
        let worker = config.worker.as_ref().map(|w| (w.clone(), w.advertise.clone().unwrap_or(url.clone())));
        // Each is used once; the closure may be called often.
        let files = std::sync::Mutex::new(Some(files));
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
                    let files =
                        files.lock().expect("no holder panics").take().expect("a model is ready once");
                    let message = worker.as_ref().map(|(worker, advertised)| {
                        (worker, callback::message(worker, advertised, &app.backend, &name, &facts))
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

/// Answers requests until a signal, then lets the running ones finish within the drain timeout.
async fn answer(
    listener: TcpListener,
    app: &Arc<App>,
    config: &ServeConfig,
    signals: &mut Signals,
    mut load_failed: oneshot::Receiver<ModelError>,
) -> Result<Exit, ModelError> {
    let (stop, stopped) = oneshot::channel::<()>();
    let graceful = async {
        // A dropped sender stops the server too.
        let _ = stopped.await;
    };
    let server = axum::serve(listener, router(app.clone())).with_graceful_shutdown(graceful);
    let mut server = tokio::spawn(server.into_future());
    tokio::select! {
        Ok(error) = &mut load_failed => {
            server.abort();
            return Err(error);
        }
        () = signals.next() => {}
    }
    app.drain();
    tracing::info!(
        "draining: running requests get {} s, a second signal ends them",
        config.drain_timeout.as_secs()
    );
    // The server task is gone only if it panicked; then there is nothing to stop.
    let _ = stop.send(());
    let cut_off = tokio::select! {
        _ = &mut server => None,
        () = tokio::time::sleep(config.drain_timeout) => Some("the drain timeout is over"),
        () = signals.next() => Some("a second signal came"),
    };
    for model in app.models.ready() {
        model.engine.abort();
    }
    if let Some(why) = cut_off {
        tracing::warn!("{why}: requests still running are cut off");
        // They still get to say so.
        let _ = tokio::time::timeout(FAREWELL, &mut server).await;
        server.abort();
    }
    Ok(Exit::Done)
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

/// Waits for the engine thread, so that its executor is dropped before the plugin shuts down. A thread that
/// does not end, say in the middle of a load, is left to the end of the process.
async fn ended(engine: JoinHandle<()>) -> bool {
    let deadline = Instant::now() + ENGINE_END;
    while !engine.is_finished() && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    if !engine.is_finished() {
        tracing::warn!("the engine thread does not end; leaving it behind");
    }
    engine.is_finished()
}
