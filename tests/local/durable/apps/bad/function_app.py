"""An app that Azure refuses: the activity's input has no parameter of its name."""

import azure.durable_functions as df

app = df.DFApp()


@app.activity_trigger(input_name="payload")
def wrong_name(item: dict) -> dict:
    return item
