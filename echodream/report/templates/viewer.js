"use strict";
(() => {
  const { controls, clips } = JSON.parse(document.getElementById("content").textContent);
  const inputs = controls.map((name) => document.querySelector(`form [name="${CSS.escape(name)}"]`));
  const video = document.getElementById("clip");
  const nearest = document.getElementById("nearest");
  const videos = [...document.querySelectorAll("video")];
  const button = document.querySelector(".play");
  const speed = document.getElementById("speed");
  let playing = !matchMedia("(prefers-reduced-motion: reduce)").matches;
  let shown = clips[0];

  // Among the clips with the wanted value of the changed control, the clip with most other wanted values.
  const closest = (wanted, changed) => {
    const cost = (clip) => clip.choice.reduce((sum, value, index) => {
      if (wanted[index] === undefined || value === wanted[index]) return sum;
      const size = inputs[index].tagName === "SELECT" ? inputs[index].options.length : Number(inputs[index].max) + 1;
      return sum + (index === changed ? 1000 : 1) + Math.abs(value - wanted[index]) / (2 * size);
    }, 0);
    return clips.reduce((best, clip) => (cost(clip) < cost(best) ? clip : best));
  };
  const text = (index, value) => (inputs[index].tagName === "SELECT"
    ? inputs[index].options[value].textContent : JSON.parse(inputs[index].dataset.texts)[value]);
  const play = () => {
    button.textContent = playing ? "Pause" : "Play";
    for (const each of videos) {
      each.playbackRate = Number(speed.value);
      if (playing && each.src) each.play().catch(() => {});
      else each.pause();
    }
  };
  const show = (clip, note) => {
    shown = clip;
    inputs.forEach((input, index) => {
      input.value = clip.choice[index];
      if (input.tagName !== "SELECT") input.nextElementSibling.textContent = text(index, clip.choice[index]);
    });
    video.src = clip.video;
    document.getElementById("state").textContent = clip.passed ? "passed the privacy filter" : "not filtered by the calibrated rule";
    document.getElementById("name").textContent = clip.name;
    document.getElementById("note").textContent = note;
    if (nearest) {
      nearest.hidden = !clip.nearest;
      nearest.querySelector("video").src = clip.nearest ? clip.nearest.video : "";
      nearest.querySelector("span").textContent = clip.nearest
        ? `${clip.nearest.patient}, similarity ${clip.nearest.score}` : "";
    }
    play();
  };
  const choose = (wanted, changed) => {
    const clip = closest(wanted, changed);
    const moved = controls.filter((_, index) => wanted[index] !== undefined && clip.choice[index] !== wanted[index]);
    show(clip, moved.length ? `There is no clip with all of these values; changed: ${moved.join(", ")}.` : "");
  };
  const fragment = () => controls.map((name, index) => `${encodeURIComponent(name)}=${encodeURIComponent(text(index, shown.choice[index]))}`).join("&");
  const readFragment = () => {
    const given = new URLSearchParams(location.hash.slice(1));
    const wanted = controls.map((name, index) => {
      const count = inputs[index].tagName === "SELECT" ? inputs[index].options.length : Number(inputs[index].max) + 1;
      const found = [...Array(count).keys()].find((value) => text(index, value) === given.get(name));
      return found === undefined && !given.has(name) ? shown.choice[index] : found;
    });
    choose(wanted, -1);
  };

  inputs.forEach((input, index) => input.addEventListener("input", () => {
    const wanted = [...shown.choice];
    wanted[index] = Number(input.value);
    choose(wanted, index);
    history.replaceState(null, "", `#${fragment()}`);
  }));
  document.querySelector("form").addEventListener("submit", (event) => event.preventDefault());
  button.addEventListener("click", () => { playing = !playing; play(); });
  speed.addEventListener("change", play);
  addEventListener("hashchange", readFragment);
  readFragment();
})();
