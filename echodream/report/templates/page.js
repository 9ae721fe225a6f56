"use strict";
(() => {
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  const videos = [...document.querySelectorAll(".clip video")];
  const buttons = [...document.querySelectorAll(".play")];
  const dialog = document.querySelector("dialog");
  const large = dialog.querySelector("video");
  const seen = new Set();
  let playing = !still.matches;
  let last = null;

  // Some browsers play no data: address; a blob of the same bytes stays in the page, too.
  const rescue = (video) => {
    if (!video.src.startsWith("data:")) return;
    const bytes = Uint8Array.from(atob(video.src.split(",")[1]), (letter) => letter.charCodeAt(0));
    video.src = URL.createObjectURL(new Blob([bytes], { type: "video/mp4" }));
    update(video);
  };
  const update = (video) => {
    if (playing && seen.has(video) && !dialog.open) video.play().catch(() => {});
    else video.pause();
  };
  const show = () => {
    for (const button of buttons) button.textContent = playing ? "Pause all videos" : "Play all videos";
    videos.forEach(update);
  };

  const watch = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (entry.isIntersecting) seen.add(entry.target);
      else seen.delete(entry.target);
      update(entry.target);
    }
  }, { rootMargin: "100px" });
  for (const video of videos) {
    if (video.error) rescue(video);
    video.addEventListener("error", () => rescue(video), { once: true });
    watch.observe(video);
  }
  for (const button of buttons) button.addEventListener("click", () => { playing = !playing; show(); });
  for (const choice of document.querySelectorAll(".speed")) {
    choice.addEventListener("change", () => {
      for (const other of document.querySelectorAll(".speed")) other.value = choice.value;
      for (const video of [...videos, large]) video.defaultPlaybackRate = video.playbackRate = Number(choice.value);
    });
  }
  still.addEventListener("change", () => { playing = !still.matches; show(); });

  for (const button of document.querySelectorAll(".open")) {
    button.addEventListener("click", () => {
      const video = button.querySelector("video");
      last = button;
      large.src = video.src;
      large.currentTime = video.currentTime;
      large.playbackRate = video.playbackRate;
      large.setAttribute("aria-label", video.getAttribute("aria-label"));
      dialog.querySelector("#d-title").textContent = video.getAttribute("aria-label");
      dialog.showModal();
      show();
      if (playing) large.play().catch(() => {});
    });
  }
  dialog.querySelector(".close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("close", () => { large.pause(); show(); if (last) last.focus(); });
  show();
})();
