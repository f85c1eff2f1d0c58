// Keep a view up to date while it is shown and looked at.

/** Call `work` now and every `every_ms` until `signal` aborts; a failure goes to `failed` and is tried again. */
export function refresh(work, every_ms, signal, failed) {
  let timer;
  const round = async () => {
    clearTimeout(timer);
    if (signal.aborted) return;
    if (document.visibilityState === "visible") {
      try {
        await work();
      } catch (error) {
        if (!signal.aborted) failed(error);
      }
    }
    if (!signal.aborted) timer = setTimeout(round, every_ms);
  };
  signal.addEventListener("abort", () => clearTimeout(timer));
  round();
  return round;
}
