"use strict";
(() => {
  const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)");
  const videos = [...document.querySelectorAll(".clip video")];
  const buttons = [...document.querySelectorAll(".play")];
  const dialog = document.querySelector("dialog");
  const dialogVideo = dialog.querySelector("video");
  const visible = new Set();
  let playing = !reducedMotion.matches;
  let lastButton = null;

  // Some browsers do not play data URLs; a blob URL of the same bytes needs no request either.
  const useBlobUrl = (video) => {
    if (!video.src.startsWith("data:")) return;
    const bytes = Uint8Array.from(atob(video.src.split(",")[1]), (character) => character.charCodeAt(0));
    video.src = URL.createObjectURL(new Blob([bytes], { type: "video/mp4" }));
    updatePlayback(video);
  };
  const updatePlayback = (video) => {
    if (playing && visible.has(video) && !dialog.open) video.play().catch(() => {});
    else video.pause();
  };
  const updateAll = () => {
    for (const button of buttons) button.textContent = playing ? "Pause all videos" : "Play all videos";
    videos.forEach(updatePlayback);
  };

  const observer = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (entry.isIntersecting) visible.add(entry.target);
      else visible.delete(entry.target);
      updatePlayback(entry.target);
    }
  }, { rootMargin: "100px" });
  for (const video of videos) {
    if (video.error) useBlobUrl(video);
    video.addEventListener("error", () => useBlobUrl(video), { once: true });
    observer.observe(video);
  }
  for (const button of buttons) button.addEventListener("click", () => { playing = !playing; updateAll(); });
  for (const select of document.querySelectorAll(".speed")) {
    select.addEventListener("change", () => {
      for (const other of document.querySelectorAll(".speed")) other.value = select.value;
      for (const video of [...videos, dialogVideo]) video.defaultPlaybackRate = video.playbackRate = Number(select.value);
    });
  }
  reducedMotion.addEventListener("change", () => { playing = !reducedMotion.matches; updateAll(); });

  for (const button of document.querySelectorAll(".open")) {
    button.addEventListener("click", () => {
      const video = button.querySelector("video");
      lastButton = button;
      dialogVideo.src = video.src;
      dialogVideo.currentTime = video.currentTime;
      dialogVideo.playbackRate = video.playbackRate;
      dialogVideo.setAttribute("aria-label", video.getAttribute("aria-label"));
      dialog.querySelector("#d-title").textContent = video.getAttribute("aria-label");
      dialog.showModal();
      updateAll();
      if (playing) dialogVideo.play().catch(() => {});
    });
  }
  dialog.querySelector(".close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("close", () => { dialogVideo.pause(); updateAll(); if (lastButton) lastButton.focus(); });
  updateAll();
})();
