// Texts that can be seen, and whose contrast with what lies behind them is below 4.5 (WCAG 2.2, 1.4.3). What is disabled
// need not have it, and has it here.
() => {
  const numbers = (colour) => {
    const found = colour.match(/[\d.]+/g).map(Number);
    return { rgb: found.slice(0, 3), alpha: found[3] ?? 1 };
  };
  const over = (top, alpha, below) => top.map((value, n) => value * alpha + below[n] * (1 - alpha));
  const luminance = (rgb) => {
    const [r, g, b] = rgb.map((v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    const layers = [];
    for (let one = element; one; one = one.parentElement) {
      const { rgb, alpha } = numbers(getComputedStyle(one).backgroundColor);
      if (alpha) layers.push([rgb, alpha]);
      if (alpha === 1) break;
    }
    return layers.reverse().reduce((below, [rgb, alpha]) => over(rgb, alpha, below), [255, 255, 255]);
  };
  const root = document.querySelector("dialog[open]") ?? document.body;
  const texts = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  const poor = [];
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    const text = texts.currentNode.textContent.trim();
    if (!text || element.matches("script, style, noscript, option") || !element.checkVisibility()) continue;
    if (element.closest("dialog:not([open])")) continue;
    const style = getComputedStyle(element);
    const ground = behind(element);
    const { rgb, alpha } = numbers(style.color);
    const [a, b] = [luminance(over(rgb, alpha, ground)), luminance(ground)];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < 4.5) poor.push([text.slice(0, 40), contrast.toFixed(2), style.color, ground.join()]);
  }
  return poor;
}
