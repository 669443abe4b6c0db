showList(JSON.parse(find("#data").textContent));
document.documentElement.dataset.ready = "yes";
