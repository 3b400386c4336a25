// What is chosen on the page, kept in the address, so that a link shows the same.

export const url = {
  get: (name) => new URLSearchParams(location.search).get(name),
  set(name, value) {
    const search = new URLSearchParams(location.search);
    if (value === null || value === undefined || value === "") search.delete(name);
    else search.set(name, value);
    const text = search.toString();
    history.replaceState(null, "", location.pathname + (text ? `?${text}` : "") + location.hash);
  },
};
