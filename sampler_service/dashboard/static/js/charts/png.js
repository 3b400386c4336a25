// A card's plots as one picture with its title, drawn in the browser.

import { palette } from "../theme.js";

export function downloadPng(card) {
  const sources = card.plots.map((plot) => plot.canvas()).filter((canvas) => canvas);
  if (sources.length === 0) return;
  const scale = window.devicePixelRatio || 1;
  const pad = 16 * scale;
  const head = 40 * scale;
  const colors = palette();
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(...sources.map((source) => source.width)) + 2 * pad;
  canvas.height = sources.reduce((sum, source) => sum + source.height + pad, head) + pad;
  const context = canvas.getContext("2d");
  context.fillStyle = colors.surface;
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.fillStyle = colors.ink;
  context.font = `600 ${15 * scale}px system-ui, sans-serif`;
  context.fillText(`${card.title} — ${document.title}`, pad, pad + 14 * scale, canvas.width - 2 * pad);
  let top = head;
  for (const source of sources) {
    context.drawImage(source, pad, top);
    top += source.height + pad;
  }
  canvas.toBlob((blob) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = `${document.title}-${card.root.id}.png`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
}
